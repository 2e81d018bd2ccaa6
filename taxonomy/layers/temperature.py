"""Attention temperatures that depend on the position of the query."""

import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.registry import component


@component("log_position", kind="temperature", paper="Nakanishi 2025, arXiv:2501.19399; Llama 4 (Meta AI 2025)")
@dataclasses.dataclass(frozen=True)
class LogPosition:
    """Multiply queries by 1 + scale ln(1 + floor((position + 1) / floor)), so that long contexts do not flatten attention."""

    scale: float
    floor: int

    def check(self) -> None:
        if self.floor < 1:
            raise ValueError(f"floor={self.floor} must be at least 1")

    def __call__(self, q_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
        factor_BT = 1 + self.scale * jnp.log1p(jnp.floor((positions_BT + 1) / self.floor))
        return q_BTHK * factor_BT[:, :, None, None].astype(q_BTHK.dtype)
