"""From logits to the next token. `filter` says which tokens may be drawn and how likely each is; `sample` draws.

A filter is a pure function of float32 logits (B, V) that keeps at least one token a row; what it rules out becomes -inf.
"""

import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.registry import component


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws from the softmax of the filtered logits."""

    def filter(self, logits_BV: jax.Array) -> jax.Array:
        """Float32 logits of the same shape, -inf where a token is ruled out."""
        return logits_BV

    def sample(self, key: jax.Array, logits_BV: jax.Array) -> jax.Array:
        """One token a row: (B,) int32."""
        # Gumbel's way, so that a token at -inf is never drawn. The place of the maximum is found in two passes because XLA on
        # CPU runs an argmax of something computed four times slower.
        noisy_BV = self.filter(logits_BV) + jax.random.gumbel(key, logits_BV.shape)
        tokens_V = jnp.arange(logits_BV.shape[-1], dtype=jnp.int32)
        best_BV = noisy_BV == noisy_BV.max(-1, keepdims=True)
        return jnp.where(best_BV, tokens_V, tokens_V[-1]).min(-1)


@component("greedy", kind="sampler", paper="")
@dataclasses.dataclass(frozen=True)
class Greedy(Sampler):
    """The most likely token; the first of them when several are."""

    def filter(self, logits_BV: jax.Array) -> jax.Array:
        best_BV = jnp.arange(logits_BV.shape[-1]) == logits_BV.argmax(-1, keepdims=True)
        return jnp.where(best_BV, logits_BV, -jnp.inf)

    def sample(self, key: jax.Array, logits_BV: jax.Array) -> jax.Array:
        return logits_BV.argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempered(Sampler):
    """Logits divided by a temperature before anything else."""

    temperature: float = 1.0

    def check(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0 (for the limit 0, say greedy)")

    def filter(self, logits_BV: jax.Array) -> jax.Array:
        return logits_BV / self.temperature


@component("temperature", kind="sampler", paper="Ackley et al. 1985, A Learning Algorithm for Boltzmann Machines")
@dataclasses.dataclass(frozen=True)
class Temperature(Tempered):
    """Any token, by its probability sharpened (below 1) or flattened (above 1) by a temperature."""

    temperature: float


@component("top_k", kind="sampler", paper="Fan et al. 2018, arXiv:1805.04833, section 5.1")
@dataclasses.dataclass(frozen=True)
class TopK(Tempered):
    """One of the k most likely tokens."""

    k: int

    def check(self) -> None:
        super().check()
        if self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1")

    def filter(self, logits_BV: jax.Array) -> jax.Array:
        logits_BV = super().filter(logits_BV)
        k = min(self.k, logits_BV.shape[-1])
        # The minimum, not the last one: with a slice XLA on CPU sorts the whole vocabulary.
        smallest_B1 = jax.lax.top_k(logits_BV, k)[0].min(-1, keepdims=True)
        above_BV, equal_BV = logits_BV > smallest_B1, logits_BV == smallest_B1
        return jnp.where(above_BV | _first(k - _count(above_BV), equal_BV), logits_BV, -jnp.inf)


@component("top_p", kind="sampler", paper="Holtzman et al. 2019, arXiv:1904.09751, section 3.1")
@dataclasses.dataclass(frozen=True)
class TopP(Tempered):
    """One of the fewest most likely tokens whose probabilities sum to at least p: the nucleus."""

    p: float

    def check(self) -> None:
        super().check()
        if not 0 < self.p <= 1:
            raise ValueError(f"p={self.p} must be above 0 and at most 1")

    def filter(self, logits_BV: jax.Array) -> jax.Array:
        logits_BV = super().filter(logits_BV)
        probability_BV = jax.nn.softmax(logits_BV, axis=-1)
        # Bits of floats that are not negative sort like the floats, so halving an interval of integers finds the smallest
        # probability of the nucleus exactly, in a tenth of the time of sorting the vocabulary.
        bits_BV = jax.lax.bitcast_convert_type(probability_BV, jnp.int32)

        def mass(inside_BV):
            return jnp.where(inside_BV, probability_BV, 0).sum(-1, keepdims=True)

        def halve(_, interval):
            low_B1, high_B1 = interval
            middle_B1 = low_B1 + (high_B1 - low_B1) // 2
            enough_B1 = mass(bits_BV >= middle_B1) >= self.p
            return jnp.where(enough_B1, middle_B1, low_B1), jnp.where(enough_B1, high_B1, middle_B1)

        low_B1 = jnp.zeros((logits_BV.shape[0], 1), jnp.int32)
        smallest_B1, _ = jax.lax.fori_loop(0, 31, halve, (low_B1, bits_BV.max(-1, keepdims=True) + 1))
        above_BV, equal_BV = bits_BV > smallest_B1, bits_BV == smallest_B1
        missing_B1 = self.p - mass(above_BV)
        each_B1 = jax.lax.bitcast_convert_type(smallest_B1, jnp.float32)
        room_B1 = jnp.where(each_B1 > 0, jnp.ceil(missing_B1 / each_B1), jnp.inf)
        return jnp.where(above_BV | _first(jnp.maximum(room_B1, 1), equal_BV), logits_BV, -jnp.inf)


def _count(chosen_BV: jax.Array) -> jax.Array:
    return chosen_BV.sum(-1, keepdims=True)


def _first(count_B1: jax.Array, chosen_BV: jax.Array) -> jax.Array:
    """The first `count` of the chosen tokens of each row, which are equally likely."""

    def rank(_):
        return chosen_BV & (jnp.cumsum(chosen_BV, axis=-1) <= count_B1)

    # Ties are rare and counting them through the vocabulary is slow.
    return jax.lax.cond((_count(chosen_BV) > count_B1).any(), rank, lambda _: chosen_BV, None)
