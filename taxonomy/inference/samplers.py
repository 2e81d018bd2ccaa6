"""From logits to the next token. `filter` says which tokens may be drawn and how likely each is; `sample` draws.

A filter is a pure function of float32 logits (B, V) that keeps at least one token a row; what it rules out becomes -inf. Samplers
that look at the tokens so far say so with `counted`, and are then given `Counts`.
"""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy import registry
from taxonomy.registry import Component, component

Part = Annotated[Component, ("sampler",)]


@struct.dataclass
class Counts:
    """How often each token of the vocabulary stands in a row so far: in its prompt and in what follows, both int32 (B, V)."""

    prompt_BV: jax.Array
    new_BV: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws from the softmax of the filtered logits.

    counted: it needs `Counts`. truncates: what it rules out depends on the logits. bans: what it rules out does not.
    """

    counted = False
    truncates = False
    bans = False

    @property
    def named(self) -> tuple[int, ...]:
        """Tokens that its arguments name, which must be in the vocabulary."""
        return ()

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        """Float32 logits of the same shape, -inf where a token is ruled out."""
        return logits_BV

    def sample(self, key: jax.Array, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        """One token a row: (B,) int32. `key`: one, or one for each row."""
        return best(self.filter(logits_BV, counts), _gumbel(key, logits_BV.shape))


def best(logits_BV: jax.Array, gumbel_BV: jax.Array) -> jax.Array:
    """Tokens (B,) drawn from the softmax of logits, Gumbel's way, so that a token at -inf is never drawn."""
    return _highest(logits_BV + gumbel_BV)


def _highest(scores_BV: jax.Array) -> jax.Array:
    """The first of a row's highest scores, (B,) int32: in two passes, because XLA on CPU runs an argmax four times slower."""
    tokens_V = jnp.arange(scores_BV.shape[-1], dtype=jnp.int32)
    best_BV = scores_BV == scores_BV.max(-1, keepdims=True)
    return jnp.where(best_BV, tokens_V, tokens_V[-1]).min(-1)


def _gumbel(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    if key.ndim == 0:
        return jax.random.gumbel(key, shape)
    return jax.vmap(lambda one: jax.random.gumbel(one, shape[1:]))(key)


@component("greedy", kind="sampler", paper="")
@dataclasses.dataclass(frozen=True)
class Greedy(Sampler):
    """The most likely token; the first of them when several are."""

    truncates = True

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        best_BV = jnp.arange(logits_BV.shape[-1]) == logits_BV.argmax(-1, keepdims=True)
        return jnp.where(best_BV, logits_BV, -jnp.inf)

    def sample(self, key: jax.Array, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        return _highest(logits_BV)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempered(Sampler):
    """Logits divided by a temperature before anything else."""

    temperature: float = 1.0

    def check(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0 (for the limit 0, say greedy)")

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        return logits_BV / self.temperature


@component("temperature", kind="sampler", paper="Ackley et al. 1985, A Learning Algorithm for Boltzmann Machines")
@dataclasses.dataclass(frozen=True)
class Temperature(Tempered):
    """Any token, by its probability sharpened (below 1) or flattened (above 1) by a temperature."""

    temperature: float


@component("chain", kind="sampler", paper="")
@dataclasses.dataclass(frozen=True)
class Chain(Sampler):
    """Samplers one after another, each filtering what the one before it left: chain(repetition(1.2), top_k(50), top_p(0.9))."""

    parts: tuple[Part, ...]

    def check(self) -> None:
        if not self.parts:
            raise ValueError("parts=() must be at least one sampler")
        truncating = None
        for part, one in zip(self.parts, self.samplers, strict=True):
            if one.bans and truncating:
                raise ValueError(f"{part.name} must stand before {truncating}, after which it could leave no token")
            truncating = truncating or (part.name if one.truncates else None)

    @functools.cached_property
    def samplers(self) -> tuple[Sampler, ...]:
        return tuple(map(registry.instantiate, self.parts))

    @property
    def counted(self) -> bool:
        return any(one.counted for one in self.samplers)

    @property
    def truncates(self) -> bool:
        return any(one.truncates for one in self.samplers)

    @property
    def bans(self) -> bool:
        return any(one.bans for one in self.samplers)

    @property
    def named(self) -> tuple[int, ...]:
        return tuple(token for one in self.samplers for token in one.named)

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        for one in self.samplers:
            logits_BV = one.filter(logits_BV, counts)
        return logits_BV

    def sample(self, key: jax.Array, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        *before, last = self.samplers
        for one in before:
            logits_BV = one.filter(logits_BV, counts)
        return last.sample(key, logits_BV, counts)
