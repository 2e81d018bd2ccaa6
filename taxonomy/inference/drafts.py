"""What may come next, guessed cheaply: drafts, which speculative decoding has the model check.

A draft is good for speed alone: what is written does not depend on how good its guesses are, only on the chances from which it says
it drew them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from taxonomy import spec
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.inference import samplers
from taxonomy.inference.samplers import Counts, Sampler
from taxonomy.inference.steps import Program
from taxonomy.registry import component


class Asked(NamedTuple):
    """What is to be continued, as `decode.Decoding` is told: `given` and `params` are the model and its parameters before and after
    `steps.ready`, `unrolled` those that a step of `program` reads. Tokens and positions (B, T) are of prompts in `copies` rows."""

    given: tuple[spec.Model, Mapping[str, Any]]
    params: Mapping[str, Any]
    unrolled: Mapping[str, Any]
    program: Program
    prompts: Sequence[Sequence[int]]
    inputs: Sequence[Sequence[int]] | None
    copies: int
    room: int
    max_new_tokens: int
    piece: int
    tokens_BT: np.ndarray
    positions_BT: np.ndarray


@struct.dataclass
class Rows:
    """Rows so far: text_BL, tokens by position, of which the first known_B count. left_B: tokens that may yet be drawn.

    keys_B: of what is drawn for them now. The last token is not yet in any cache.
    """

    text_BL: jax.Array
    known_B: jax.Array
    left_B: jax.Array
    keys_B: jax.Array
    counts: Counts | None

    def token(self, position_BT: jax.Array) -> jax.Array:
        """The tokens at these positions, (B, T)."""
        return jnp.take_along_axis(self.text_BL, jnp.clip(position_BT, 0, self.text_BL.shape[1] - 1), axis=1)


@struct.dataclass
class Proposal:
    """Tokens (B, K), of which the first count_B are proposed, and the probabilities (B, K, V) from which each was drawn.

    These are None where nothing was drawn: such a token had probability one.
    """

    tokens_BK: jax.Array
    count_B: jax.Array
    chances_BKV: jax.Array | None = None


class Proposer(Protocol):
    """Proposes, in compiled programs; its memory is a tree of arrays."""

    tokens: int

    def propose(self, sampler: Sampler, params: Any, memory: Any, rows: Rows) -> tuple[Proposal, Any]:
        """The next tokens and the memory after them."""

    def settle(self, memory: Any, rows: Rows, kept_B: jax.Array, x_BTD: jax.Array) -> Any:
        """The memory once so many of the tokens proposed for `rows` are kept; what the head read after the last token and each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """Proposes `tokens` at a time."""

    tokens: int = 4

    def check(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens} must be at least 1")

    def ready(self, model: spec.Model, params: Mapping[str, Any]) -> "Draft":
        """The same for a model, with all that it needs. Raises UserError."""
        return self

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises UserError where tokens are known to mean something else to what proposes."""

    def begin(self, asked: Asked) -> tuple[Proposer, Any, Any]:
        """What proposes, its parameters, and its memory of the prompts. Raises UserError."""
        raise TypeError("a subclass defines begin")


@component("prompt_lookup", kind="draft", paper="Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding")
@dataclasses.dataclass(frozen=True)
class PromptLookup(Draft):
    """What followed when the row's last tokens, as many as were the same but at most `ngram`, stood in it before; the last time.

    Where that is so recent that it ends with the row, it is said over again. A row in which its last token is new has no draft.
    """

    ngram: int = 3

    def check(self) -> None:
        super().check()
        if self.ngram < 1:
            raise ValueError(f"ngram={self.ngram} must be at least 1")

    def begin(self, asked: Asked) -> tuple[Proposer, Any, Any]:
        return self, None, None

    def propose(self, sampler: Sampler, params: Any, memory: Any, rows: Rows) -> tuple[Proposal, Any]:
        places_L = jnp.arange(rows.text_BL.shape[1])
        last_B1 = rows.known_B[:, None] - 1
        same_BL, length_BL = places_L < last_B1, jnp.zeros_like(rows.text_BL)
        for back in range(self.ngram):
            # The token so many places before each place.
            text_BL = jnp.pad(rows.text_BL, ((0, 0), (back, 0)), constant_values=-1)[:, : places_L.size]
            same_BL &= text_BL == rows.token(last_B1 - back)
            length_BL += same_BL
        best_B1 = jnp.where(length_BL > 0, length_BL * places_L.size + places_L, -1).max(1, keepdims=True)
        found_B1 = best_B1 % places_L.size
        tokens_BK = rows.token(found_B1 + 1 + jnp.arange(self.tokens) % jnp.maximum(last_B1 - found_B1, 1))
        return Proposal(tokens_BK, jnp.where(best_B1[:, 0] < 0, 0, self.tokens)), memory

    def settle(self, memory: Any, rows: Rows, kept_B: jax.Array, x_BTD: jax.Array) -> Any:
        return memory


def drawn(sampler: Sampler, rows: Rows, number: int | jax.Array, logits_BV: jax.Array) -> tuple[jax.Array, jax.Array, Rows]:
    """The draw of that number of a proposal: tokens (B,), their distribution (B, V), and rows with the tokens counted."""
    filtered_BV = sampler.filter(logits_BV, rows.counts)
    token_B = samplers.best(filtered_BV, gumbel(each(rows.keys_B, number), filtered_BV.shape[-1]))
    if rows.counts is not None:
        new_BV = rows.counts.new_BV.at[jnp.arange(token_B.size), token_B].add(1)
        rows = rows.replace(counts=rows.counts.replace(new_BV=new_BV))
    return token_B, jax.nn.softmax(filtered_BV), rows


def each(keys_B: jax.Array, number: int | jax.Array | np.ndarray) -> jax.Array:
    """A key of that number for each row; `number` may differ from row to row."""
    return jax.vmap(jax.random.fold_in, (0, 0 if jnp.ndim(number) else None))(keys_B, number)


def gumbel(keys_B: jax.Array, vocab: int) -> jax.Array:
    """(B, V)."""
    return jax.vmap(lambda key: jax.random.gumbel(key, (vocab,)))(keys_B)
