"""How a model knows where a token stands: at the embedding, or in attention (`rotary`, `relative`).

A position component has two hooks: `embed` at the embedding, `attend` in every attention layer. Positions count within a document.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.layers.context import Context
from taxonomy.layers.params import declare
from taxonomy.ops.attention import Bias
from taxonomy.ops.masks import AttentionMask
from taxonomy.registry import Init, component, formula


@component("none", kind="position", paper="Haviv et al. 2022, arXiv:2203.16634; Kazemnejad et al. 2023, arXiv:2305.19466")
class NoPosition(nn.Module):
    """No position information besides the causal mask."""

    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Adds positions to token embeddings."""
        return x_BTD

    def attend(
        self, q_BTHK: jax.Array, k_BTGK: jax.Array, context: Context, scale: float
    ) -> tuple[jax.Array, jax.Array, Bias | None]:
        """Queries and keys that know their positions, and what is added to their products times `scale`."""
        return q_BTHK, k_BTGK, None

    @property
    def sharpness(self) -> float:
        """What all scores are multiplied by besides their scale."""
        return 1.0

    def check_heads(self, mask: AttentionMask, **width: int) -> None:
        """Raises ValueError where it cannot act under this mask on heads of this width, which is given by the name of its field."""

    def distance_flops(self, mask: AttentionMask, context: int, heads: int, head_dim: int) -> float:
        """Forward FLOPs per token of the products that positions add to an attention layer."""
        return 0.0

    def longest(self) -> int | None:
        """Tokens a document may have, or None when there is no bound."""
        return None


@component("learned", kind="position", paper="Gehring et al. 2017, arXiv:1705.03122; Radford et al. 2018")
class LearnedPosition(NoPosition):
    """One trained vector for each position, added to the token embedding; a document's first token has row `offset`."""

    initializer: Init
    length: int = formula("context")
    d_model: int = formula("d_model")
    offset: int = 0

    def check(self) -> None:
        if not 0 <= self.offset < self.length:
            raise ValueError(f"offset={self.offset} must be at least 0 and below length={self.length}")

    @nn.compact
    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        table_TD = declare(self, "table", (self.length, self.d_model), (None, "embed"), "position", self.initializer)
        table_TD = nn.with_logical_constraint(table_TD, (None, None))
        return x_BTD + table_TD.astype(x_BTD.dtype)[jnp.maximum(positions_BT, 0) + self.offset]

    def longest(self) -> int:
        return self.length - self.offset


@component("sinusoidal", kind="position", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.5")
class SinusoidalPosition(NoPosition):
    """Fixed sines and cosines of geometric wavelengths, added to the token embedding; sines first, then cosines."""

    base: float = 10000.0

    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        return x_BTD + sinusoids(positions_BT, x_BTD.shape[-1], self.base).astype(x_BTD.dtype)


def sinusoids(positions: jax.Array, features: int, base: float) -> jax.Array:
    """Float32 sines, then cosines, of positions (...) at geometric frequencies: (..., features)."""
    half = (features + 1) // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) * 2 / features)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)[..., :features]
