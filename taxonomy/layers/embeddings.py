"""Token embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.layers import streams
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, dropout, project
from taxonomy.registry import Component, Embedding, Init, Norm, Position, component, formula


@component("table", kind="embedding", paper="Bengio et al. 2003; Press & Wolf 2016, arXiv:1608.05859")
class EmbeddingTable(nn.Module):
    """A vector for each token, times `scale`, plus those of its position and (with `types`) its part, then a norm and dropout.

    Vectors of another `width` than the model's are projected to it (Lan et al. 2019, arXiv:1909.11942, section 3.1).
    """

    position: Position
    initializer: Init
    scale: float = 1.0
    norm: Norm | None = None
    dropout: float = 0.0
    vocab: int = formula("vocab")
    d_model: int = formula("d_model")
    width: int = formula("d_model")
    types: int = 0

    def setup(self):
        self.table_VD = declare(self, "table", (self.vocab, self.width), ("vocab", "embed"), "embedding", self.initializer)
        if self.width != self.d_model:
            shape = (self.width, self.d_model)
            self.project_WD = declare(self, "project", shape, (None, "embed"), "residual", self.initializer)
        if self.types:
            self.types_ND = declare(self, "types", (self.types, self.d_model), (None, "embed"), "embedding", self.initializer)
        # The encoder beside a decoder has positions and a norm of its own; what is not called has no parameters.
        self.positions, self.encoder_positions = registry.instantiate(self.position), registry.instantiate(self.position)
        if self.norm is not None:
            self.table_norm, self.encoder_table_norm = registry.instantiate(self.norm), registry.instantiate(self.norm)

    def __call__(self, tokens_BT: jax.Array, context: Context, dtype: jnp.dtype, beside: bool = False) -> jax.Array:
        """The residual stream (B, T, D) that a stack begins with; `beside`: it is the encoder beside a decoder."""
        # Gathering from a table whose features are sharded makes XLA replicate the output; gather the features first.
        table_VD = nn.with_logical_constraint(self.table_VD.astype(dtype), ("vocab", None))
        x_BTD = table_VD[tokens_BT]
        if self.scale != 1.0:
            x_BTD = x_BTD * jnp.asarray(self.scale, dtype)
        if self.width != self.d_model:
            x_BTD = project(x_BTD, self.project_WD)
        x_BTD = streams.with_queries(x_BTD, context)
        x_BTD = (self.encoder_positions if beside else self.positions).embed(x_BTD, context.positions_BT)
        if self.types:
            types_BT = jnp.zeros(x_BTD.shape[:2], jnp.int32) if context.types_BT is None else context.types_BT
            x_BTD = x_BTD + self.types_ND.astype(dtype)[types_BT]
        if self.norm is not None:
            x_BTD = (self.encoder_table_norm if beside else self.table_norm)(x_BTD)
        return dropout(self, x_BTD, self.dropout, context.train)


@component("projected", kind="embedding", paper="Lan et al. 2019, arXiv:1909.11942, section 3.1")
class Projected(nn.Module):
    """Another embedding with all it has, projected with a bias to the model's width where its own `d_model` is another.

    `base` is its expression, or the object itself where two nets share their vectors.
    """

    base: Embedding
    initializer: Init
    d_model: int = formula("d_model")

    def setup(self):
        self.vectors = self.base if isinstance(self.base, nn.Module) else registry.instantiate(self.base)
        if self.vectors.d_model != self.d_model:
            shape = (self.vectors.d_model, self.d_model)
            self.project_WD = declare(self, "project", shape, (None, "embed"), "residual", self.initializer)
            self.bias_D = declare(self, "project_bias", (self.d_model,), ("embed",), "bias")

    @property
    def table_VD(self) -> jax.Array:
        return self.vectors.table_VD

    def __call__(self, tokens_BT: jax.Array, context: Context, dtype: jnp.dtype, beside: bool = False) -> jax.Array:
        """As `EmbeddingTable`."""
        x_BTD = self.vectors(tokens_BT, context, dtype, beside)
        return x_BTD if x_BTD.shape[-1] == self.d_model else project(x_BTD, self.project_WD, self.bias_D)


def sharing(part: Component, other: nn.Module) -> nn.Module:
    """The embedding of a net that has its vectors from another net's embedding, which has the same ones."""
    vectors = other.vectors if isinstance(other, Projected) else other
    return registry.instantiate(part.replace(base=vectors)) if part.name == "projected" else vectors
