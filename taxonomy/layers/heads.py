"""From the residual stream to the vocabulary. A head describes its projection; the loss decides how to compute it."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.layers.params import declare, project
from taxonomy.ops.cross_entropy import Projection
from taxonomy.registry import Init, Norm, component, formula

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
Activation = Literal["gelu", "gelu_tanh", "relu"]


@component("tied", kind="head", paper="Press & Wolf 2016, arXiv:1608.05859")
class TiedHead(nn.Module):
    """Score each token by the dot product with its embedding, after a projection where that has another width."""

    initializer: Init
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    vocab: int = formula("vocab")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array) -> tuple[jax.Array, Projection]:
        """Features and what projects them to the vocabulary."""
        shape = (x_BTD.shape[-1], table_VD.shape[1])
        if shape[0] != shape[1]:
            x_BTD = project(x_BTD, declare(self, "project", shape, ("embed", None), "mlp", self.initializer))
        bias_V = declare(self, "bias_V", (self.vocab,), ("vocab",), "bias") if self.bias else None
        return x_BTD, Projection(table_VD, bias_V, self.scale, self.softcap)


@component("mlm", kind="head", paper="Devlin et al. 2018, arXiv:1810.04805 (google-research/bert, run_pretraining.py)")
class MaskedHead(nn.Module):
    """Transform features by a projection, an activation and a norm, then score tokens by their embeddings and a bias."""

    initializer: Init
    norm: Norm
    activation: Activation = "gelu"
    vocab: int = formula("vocab")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array) -> tuple[jax.Array, Projection]:
        """Features and what projects them to the vocabulary."""
        y = _activated(self, "transform", x_BTD, table_VD.shape[1])
        y = registry.instantiate(self.norm, name="norm")(y, (None,))
        return y, Projection(table_VD, declare(self, "bias_V", (self.vocab,), ("vocab",), "bias"))


def _activated(head: nn.Module, name: str, x_BTD: jax.Array, width: int) -> jax.Array:
    """A projection with a bias, and the head's activation."""
    kernel = declare(head, name, (x_BTD.shape[-1], width), ("embed", None), "mlp", head.initializer)
    return ACTIVATIONS[head.activation](project(x_BTD, kernel, declare(head, f"{name}_bias", (width,), (None,), "bias")))


@component("detector", kind="head", paper="Clark et al. 2020, arXiv:2003.10555, section 2 (run_pretraining.py)")
class Detector(nn.Module):
    """Score whether each token was replaced: a projection with an activation, and a projection to one number."""

    initializer: Init
    activation: Activation = "gelu"

    loss = "binary"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array) -> tuple[jax.Array, Projection]:
        """Features and what projects them to a score."""
        d_model = x_BTD.shape[-1]
        y = _activated(self, "dense", x_BTD, d_model)
        kernel_1D = declare(self, "kernel", (1, d_model), (None, "embed"), "output", self.initializer)
        return y, Projection(kernel_1D, declare(self, "bias_1", (1,), (None,), "bias"), loss=self.loss)


class RowHead(nn.Module, kw_only=True):
    """Numbers of a row, made from its first token by a projection with tanh (the pooler) and a projection to `outputs`."""

    initializer: Init
    pooler: bool = True

    loss = "softmax"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array) -> tuple[jax.Array, Projection]:
        """Features (B, 1, D) and what projects them to the outputs."""
        y = x_BTD[..., :1, :]
        d_model = y.shape[-1]
        if self.pooler:
            kernel = declare(self, "pooler", (d_model, d_model), ("embed", None), "mlp", self.initializer)
            y = jnp.tanh(project(y, kernel, declare(self, "pooler_bias", (d_model,), (None,), "bias")))
        kernel_CD = declare(self, "kernel", (self.outputs, d_model), (None, "embed"), "output", self.initializer)
        return y, Projection(kernel_CD, declare(self, "bias_C", (self.outputs,), (None,), "bias"), loss=self.loss)


@component("classifier", kind="head", paper="Devlin et al. 2018, arXiv:1810.04805, section 3 ([CLS])")
class Classifier(RowHead):
    """Score classes of a row by its first token: a projection with tanh (the pooler), and a projection to `classes`."""

    classes: int

    outputs = property(lambda self: self.classes)


@component("regression", kind="head", paper="Liu et al. 2019, arXiv:1907.11692 (facebookresearch/fairseq, sentence_prediction)")
class Regression(RowHead):
    """Real numbers of a row, such as how alike two texts are, from its first token as classes are; the loss is squared error."""

    values: int = 1

    outputs = property(lambda self: self.values)
    loss = "squared"


@component("untied", kind="head", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.4")
class UntiedHead(nn.Module):
    """Score each token by a projection of its own."""

    initializer: Init
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    vocab: int = formula("vocab")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array) -> tuple[jax.Array, Projection]:
        """Features and what projects them to the vocabulary."""
        shape = (self.vocab, x_BTD.shape[-1])
        kernel_VD = declare(self, "kernel", shape, ("vocab", "embed"), "output", self.initializer)
        bias_V = declare(self, "bias_V", (self.vocab,), ("vocab",), "bias") if self.bias else None
        return x_BTD, Projection(kernel_VD, bias_V, self.scale, self.softcap)
