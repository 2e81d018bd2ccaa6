"""Samplers that change how likely tokens are because of which they are, or of how often they were said."""

import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.inference.samplers import Counts, Sampler
from taxonomy.registry import component


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Sampler):
    """Looks at the tokens so far: new ones, and those of the prompt where `prompt` says so."""

    counted = True

    def counts(self, counts: Counts) -> jax.Array:
        """How often each token was said, (B, V)."""
        return counts.prompt_BV + counts.new_BV if self.prompt else counts.new_BV


@component("repetition", kind="sampler", paper="Keskar et al. 2019, arXiv:1909.05858, section 4.1 (negative logits: transformers)")
@dataclasses.dataclass(frozen=True)
class Repetition(Counted):
    """Divide the logits of tokens in the text so far by a penalty, or multiply them where they are negative; below 1 rewards."""

    penalty: float
    prompt: bool = True

    def check(self) -> None:
        if not self.penalty > 0:
            raise ValueError(f"penalty={self.penalty} must be above 0 (1 changes nothing)")

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        changed_BV = jnp.where(logits_BV < 0, logits_BV * self.penalty, logits_BV / self.penalty)
        return jnp.where(self.counts(counts) > 0, changed_BV, logits_BV)


@component("frequency", kind="sampler", paper="OpenAI 2020, API reference, frequency_penalty")
@dataclasses.dataclass(frozen=True)
class Frequency(Counted):
    """Take a penalty from a token's logit for each time that it was said; below 0 rewards."""

    penalty: float
    prompt: bool = False

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        return logits_BV - self.penalty * self.counts(counts)


@component("presence", kind="sampler", paper="OpenAI 2020, API reference, presence_penalty")
@dataclasses.dataclass(frozen=True)
class Presence(Counted):
    """Take a penalty from a token's logit once it was said; below 0 rewards."""

    penalty: float
    prompt: bool = False

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        return logits_BV - self.penalty * (self.counts(counts) > 0)


@component("logit_bias", kind="sampler", paper="OpenAI 2020, API reference, logit_bias")
@dataclasses.dataclass(frozen=True)
class LogitBias(Sampler):
    """Add `biases` to the logits of `tokens`, one to each: logit_bias(tokens=(11, 13), biases=(-5, 2.5))."""

    tokens: tuple[int, ...]
    biases: tuple[float, ...]

    def check(self) -> None:
        _check_tokens(self.tokens)
        if len(self.tokens) != len(self.biases):
            raise ValueError(f"biases={self.biases} must be as many as tokens={self.tokens}")

    @property
    def named(self) -> tuple[int, ...]:
        return self.tokens

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        return logits_BV.at[:, jnp.array(self.tokens)].add(jnp.array(self.biases, logits_BV.dtype))


@component("banned", kind="sampler", paper="")
@dataclasses.dataclass(frozen=True)
class Banned(Sampler):
    """Any token but these: banned((11, 13))."""

    tokens: tuple[int, ...]
    bans = True

    def check(self) -> None:
        _check_tokens(self.tokens)

    @property
    def named(self) -> tuple[int, ...]:
        return self.tokens

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        return logits_BV.at[:, jnp.array(self.tokens)].set(-jnp.inf)


def _check_tokens(tokens: tuple[int, ...]) -> None:
    if not tokens or min(tokens) < 0 or len(set(tokens)) < len(tokens):
        raise ValueError(f"tokens={tokens} must be at least one token, none negative, none twice")
