"""Samplers that rule out the unlikely, or the untypical: each keeps a part of the distribution, as it is.

Where several rows are drawn each in its own way, the numbers k and p are arrays (B, 1).
"""

import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.inference.samplers import Counts, Tempered
from taxonomy.registry import component

_INFINITY = 0x7F800000  # its bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncated(Tempered):
    """Tokens that `kept` chooses once the temperature is applied."""

    truncates = True

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        logits_BV = super().filter(logits_BV, counts)
        return jnp.where(self.kept(logits_BV), logits_BV, -jnp.inf)

    def kept(self, logits_BV: jax.Array) -> jax.Array:
        """Bools (B, V), at least one of a row true."""
        raise TypeError("a subclass defines kept")


@component("top_k", kind="sampler", paper="Fan et al. 2018, arXiv:1805.04833, section 5.1")
@dataclasses.dataclass(frozen=True)
class TopK(Truncated):
    """One of the k most likely tokens."""

    k: int

    def check(self) -> None:
        super().check()
        if self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1")

    def kept(self, logits_BV: jax.Array) -> jax.Array:
        if not isinstance(self.k, int):
            k_B1 = jnp.minimum(self.k, logits_BV.shape[-1])
            rank_BV = _ordered_bits(logits_BV)
            reached_BV = rank_BV >= _reaching(k_B1, rank_BV, jnp.ones_like(logits_BV))
            return _highest(k_B1, jnp.where(reached_BV, logits_BV, jnp.inf).min(-1, keepdims=True), logits_BV)
        k = min(self.k, logits_BV.shape[-1])
        # The minimum, not the last one: with a slice XLA on CPU sorts the whole vocabulary.
        return _highest(k, jax.lax.top_k(logits_BV, k)[0].min(-1, keepdims=True), logits_BV)


@component("top_p", kind="sampler", paper="Holtzman et al. 2019, arXiv:1904.09751, section 3.1")
@dataclasses.dataclass(frozen=True)
class TopP(Truncated):
    """One of the fewest most likely tokens whose probabilities sum to at least p: the nucleus."""

    p: float

    def check(self) -> None:
        super().check()
        _check_share("p", self.p)

    def kept(self, logits_BV: jax.Array) -> jax.Array:
        probability_BV = jax.nn.softmax(logits_BV, axis=-1)
        bits_BV = _bits(probability_BV)
        smallest_B1 = _reaching(self.p, bits_BV, probability_BV)
        above_BV = bits_BV > smallest_B1
        missing_B1 = self.p - _mass(above_BV, probability_BV)
        each_B1 = jax.lax.bitcast_convert_type(smallest_B1, jnp.float32)
        room_B1 = jnp.where(each_B1 > 0, jnp.ceil(missing_B1 / each_B1), jnp.inf)
        return above_BV | _first(jnp.maximum(room_B1, 1), bits_BV == smallest_B1)


@component("min_p", kind="sampler", paper="Nguyen et al. 2024, arXiv:2407.01082, section 3")
@dataclasses.dataclass(frozen=True)
class MinP(Truncated):
    """One of the tokens that are at least p times as likely as the most likely one."""

    p: float

    def check(self) -> None:
        super().check()
        _check_share("p", self.p)

    def kept(self, logits_BV: jax.Array) -> jax.Array:
        return logits_BV >= logits_BV.max(-1, keepdims=True) + jnp.log(self.p)


@component("typical", kind="sampler", paper="Meister et al. 2022, arXiv:2202.00666, section 4")
@dataclasses.dataclass(frozen=True)
class Typical(Truncated):
    """One of the fewest tokens with a sum of at least p whose surprise is closest to the entropy, ties included."""

    p: float

    def check(self) -> None:
        super().check()
        _check_share("p", self.p)

    def kept(self, logits_BV: jax.Array) -> jax.Array:
        log_BV = jax.nn.log_softmax(logits_BV, axis=-1)
        probability_BV = jnp.exp(log_BV)
        entropy_B1 = -jnp.where(probability_BV > 0, probability_BV * log_BV, 0).sum(-1, keepdims=True)
        closeness_BV = _INFINITY - _bits(jnp.abs(log_BV + entropy_B1))
        return closeness_BV >= _reaching(self.p, closeness_BV, probability_BV)


@component("tail_free", kind="sampler", paper="Bricken 2019, trentonbricken.com/Tail-Free-Sampling")
@dataclasses.dataclass(frozen=True)
class TailFree(Truncated):
    """One of the most likely tokens, up to where the bends of the sorted probabilities sum to more than z of all bends."""

    z: float

    def check(self) -> None:
        super().check()
        _check_share("z", self.z)

    def kept(self, logits_BV: jax.Array) -> jax.Array:
        if self.z == 1 or logits_BV.shape[-1] <= 2:
            return jnp.isfinite(logits_BV)
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        bends_BN = jnp.abs(jnp.diff(jax.nn.softmax(sorted_BV, axis=-1), n=2, axis=-1))
        total_B1 = bends_BN.sum(-1, keepdims=True)
        # Without any bend, as in a uniform distribution, all places count alike.
        share_BN = jnp.where(total_B1 > 1e-6, bends_BN / total_B1, 1 / bends_BN.shape[-1])
        beyond_BN = jnp.cumsum(share_BN, axis=-1) > self.z
        place_B1 = jnp.where(beyond_BN.any(-1), beyond_BN.argmax(-1), logits_BV.shape[-1])[:, None]
        count_B1 = jnp.maximum(place_B1, 1)
        return _highest(count_B1, jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1), logits_BV)


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value} must be above 0 and at most 1")


def _bits(values: jax.Array) -> jax.Array:
    """Whole numbers that sort like floats that are not negative."""
    return jax.lax.bitcast_convert_type(values, jnp.int32)


def _ordered_bits(values: jax.Array) -> jax.Array:
    """Whole numbers, not negative, that sort like any floats."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _mass(inside_BV: jax.Array, probability_BV: jax.Array) -> jax.Array:
    return jnp.where(inside_BV, probability_BV, 0).sum(-1, keepdims=True)


def _reaching(mass: float | jax.Array, rank_BV: jax.Array, probability_BV: jax.Array) -> jax.Array:
    """The highest rank (B, 1) such that tokens of this rank and above have this mass; ranks are not negative.

    Halving an interval of integers finds it exactly, in a tenth of the time of sorting the vocabulary.
    """

    def halve(_, interval):
        low_B1, high_B1 = interval
        middle_B1 = low_B1 + (high_B1 - low_B1) // 2
        enough_B1 = _mass(rank_BV >= middle_B1, probability_BV) >= mass
        return jnp.where(enough_B1, middle_B1, low_B1), jnp.where(enough_B1, high_B1, middle_B1)

    low_B1, bits = jnp.zeros((rank_BV.shape[0], 1), rank_BV.dtype), jnp.iinfo(rank_BV.dtype).max.bit_length()
    smallest_B1, _ = jax.lax.fori_loop(0, bits, halve, (low_B1, rank_BV.max(-1, keepdims=True) + 1))
    return smallest_B1


def _highest(count_B1: jax.Array | int, smallest_B1: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """The `count` highest tokens of each row, of which `smallest` is the lowest; the first ones of those that equal it."""
    above_BV = logits_BV > smallest_B1
    return above_BV | _first(count_B1 - _count(above_BV), logits_BV == smallest_B1)


def _count(chosen_BV: jax.Array) -> jax.Array:
    return chosen_BV.sum(-1, keepdims=True)


def _first(count_B1: jax.Array, chosen_BV: jax.Array) -> jax.Array:
    """The first `count` of the chosen tokens of each row, which are equally likely."""

    def rank(_):
        return chosen_BV & (jnp.cumsum(chosen_BV, axis=-1) <= count_B1)

    # Ties are rare and counting them through the vocabulary is slow.
    return jax.lax.cond((_count(chosen_BV) > count_B1).any(), rank, lambda _: chosen_BV, None)
