"""Rows that are drawn each in its own way by one program: samplers whose numbers are arrays with one for each row."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from taxonomy.inference.penalties import Frequency, Presence
from taxonomy.inference.samplers import Counts, Greedy, Sampler, Temperature
from taxonomy.inference.truncation import MinP, TopK, TopP

# A temperature below this is the limit 0: divided by it, logits could overflow.
COLDEST = 1e-5
_ALL = np.iinfo(np.int32).max


@struct.dataclass
class Numbers:
    """What is asked for each row: float32 (B,), top_k int32; the bias of every token, float32 (B, V). Temperature 0 is greedy."""

    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    min_p_B: jax.Array
    frequency_B: jax.Array
    presence_B: jax.Array
    bias_BV: jax.Array


def numbers(
    vocab_size: int,
    *,
    temperature: float = 1.0,
    top_k: int = _ALL,
    top_p: float = 1.0,
    min_p: float = 0.0,
    frequency: float = 0.0,
    presence: float = 0.0,
    bias: Mapping[int, float] | None = None,
) -> Numbers:
    """Those of one row. The defaults change nothing."""
    bias_1V = np.zeros((1, vocab_size), np.float32)
    bias_1V[0, list(bias or ())] = list((bias or {}).values())
    temperature = 0.0 if temperature < COLDEST else temperature
    floats = (np.array([value], np.float32) for value in (temperature, top_p, min_p, frequency, presence))
    temperature_1, *others = floats
    return Numbers(temperature_1, np.array([min(top_k, _ALL)], np.int32), *others, bias_1V)


@dataclasses.dataclass(frozen=True)
class Mixed(Sampler):
    """Each row as chain(logit_bias, frequency, presence, temperature, top_k, top_p, min_p) with its own numbers, or greedy.

    A row is not touched by what others ask for, and what no row asks for is not computed.
    """

    numbers: Numbers
    counted = True

    def filter(self, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        one = jax.tree.map(lambda x: x[:, None] if x.ndim == 1 else x, self.numbers)
        greedy_B1 = one.temperature_B == 0
        logits_BV = logits_BV + one.bias_BV
        asked = (
            (one.frequency_B != 0, Frequency(one.frequency_B)),
            (one.presence_B != 0, Presence(one.presence_B)),
            (~greedy_B1, Temperature(jnp.where(greedy_B1, 1.0, one.temperature_B))),
            (~greedy_B1 & (one.top_k_B < logits_BV.shape[-1]), TopK(one.top_k_B)),
            (~greedy_B1 & (one.top_p_B < 1), TopP(one.top_p_B)),
            (~greedy_B1 & (one.min_p_B > 0), MinP(one.min_p_B)),
            (greedy_B1, Greedy()),
        )
        for rows_B1, sampler in asked:
            logits_BV = _where(rows_B1, sampler, logits_BV, counts)
        return logits_BV

    def sample(self, key: jax.Array, logits_BV: jax.Array, counts: Counts | None = None) -> jax.Array:
        def drawn(_):
            return super(Mixed, self).sample(key, logits_BV, counts)

        # Noise for a whole vocabulary costs more than all else.
        best = lambda _: self.filter(logits_BV, counts).argmax(-1).astype(jnp.int32)  # noqa: E731
        return jax.lax.cond((self.numbers.temperature_B > 0).any(), drawn, best, None)


def _where(rows_B1: jax.Array, sampler: Sampler, logits_BV: jax.Array, counts: Counts | None) -> jax.Array:
    """Logits filtered in these rows."""

    def filtered(logits_BV):
        return jnp.where(rows_B1, sampler.filter(logits_BV, counts), logits_BV)

    return jax.lax.cond(rows_B1.any(), filtered, lambda logits_BV: logits_BV, logits_BV)
