"""Multi-token prediction: modules beside the head that predict the tokens after the next one, while training.

The module of depth m says the token m + 1 places on (DeepSeek-AI 2024, arXiv:2412.19437, section 2.2). It reads what the head read
at the depth before, joined with the embedding of the token m places on, and has a block and norms of its own; the embedding and the
head are the model's. So each depth keeps the chain of causes: place i knows the tokens up to i + m and no later one. Inference has
no use for the modules here.

What a head reads is normed, and so is what a module reads: that is how the released weights were trained, where the paper leaves it
open (modeling code beside the checkpoints; engines that decode speculatively pass the normed features for this reason). In the same
layout the token comes before the features in what is joined, where eq. 21 has it after them.
"""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry, spec
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, project
from taxonomy.notation import Layers
from taxonomy.stack import Stack

# What the modules are called among a model's parameters: ahead_1 is the first.
PREFIX = "ahead_"


class Ahead(nn.Module):
    """One depth: norm(block(W [norm(e); norm(x)])), where e are embeddings and x what the head read at the depth before."""

    spec: spec.Model
    block: str
    remat: str = "none"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, e_BTD: jax.Array, context: Context) -> jax.Array:
        """What the head reads at this depth, (B, T, D)."""
        d_model, norm = x_BTD.shape[-1], self.spec.ahead_norm
        normed = [registry.instantiate(norm, name="token_norm")(e_BTD), registry.instantiate(norm, name="norm")(x_BTD)]
        kernel = declare(self, "join", (2 * d_model, d_model), ("mlp", "embed"), "mlp", self.spec.initializer)
        x_BTD = project(jnp.concatenate(normed, -1), kernel)
        x_BTD = Stack(Layers((self.block,)), self.spec.blocks, remat=self.remat, name="stack")(x_BTD, context)
        last = self.spec.final_norm
        return x_BTD if last is None else registry.instantiate(last, name="final_norm")(x_BTD)


def modules_ahead(model: spec.Model, remat: str) -> dict[str, Ahead]:
    """The modules of a model by name, the nearest depth first."""
    return {f"{PREFIX}{depth}": Ahead(model, block, remat) for depth, block in enumerate(model.ahead or (), 1)}


def later(array: jax.Array, places: int) -> jax.Array:
    """What stands so many places on in each row (B, T, ...); zeros where the row has ended."""
    missing = min(places, array.shape[1])
    return jnp.pad(array[:, missing:], ((0, 0), (0, missing), *((0, 0),) * (array.ndim - 2)))


def wanted_ahead(
    targets_BT: jax.Array, weights_BT: jax.Array, segments_BT: jax.Array | None, depths: int
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Targets and weights of each depth: those of the place whose next token is meant, none past the end of the document."""
    for depth in range(1, depths + 1):
        later_BT = later(weights_BT, depth)
        if segments_BT is not None:
            later_BT = jnp.where(later(segments_BT, depth) == segments_BT, later_BT, 0.0)
        yield later(targets_BT, depth), later_BT
