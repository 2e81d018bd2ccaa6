"""What a text's log-probability is divided by, so that beam search does not always prefer the shorter one."""

import dataclasses

import jax

from taxonomy.registry import component


@component("power", kind="length_penalty", paper="Jean et al. 2015; transformers.GenerationConfig.length_penalty")
@dataclasses.dataclass(frozen=True)
class Power:
    """|Y|^exponent, for a text of |Y| new tokens, its end included: 0 is the sum of log-probabilities, 1 their mean."""

    exponent: float

    @property
    def rises(self) -> bool:
        return self.exponent > 0

    def __call__(self, length: jax.Array) -> jax.Array:
        return length**self.exponent


@component("gnmt", kind="length_penalty", paper="Wu et al. 2016, arXiv:1609.08144, eq. 14 (without the penalty of coverage)")
@dataclasses.dataclass(frozen=True)
class GNMT:
    """((5 + |Y|) / 6)^alpha, for a text of |Y| new tokens, its end included."""

    alpha: float

    @property
    def rises(self) -> bool:
        return self.alpha > 0

    def __call__(self, length: jax.Array) -> jax.Array:
        return ((5 + length) / 6) ** self.alpha
