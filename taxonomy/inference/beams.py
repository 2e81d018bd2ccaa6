"""Beam search: the likeliest texts that a search of a few at a time finds, by log-probability over a penalty of length.

Each step extends the `beams` running texts of a prompt and looks at the best extensions, so many that even if all that can end do,
`beams` go on. Of them, those that end and are among the first `beams` are found texts, of which the best `beams` are kept; the best
others run on. A text ends with a stop token or at the last token there is room for. The search for a prompt is over when

early_stopping=True     as many texts as beams are found;
early_stopping=False    that, and no running text would be better than the worst of them if it ended now;
early_stopping="never"  that, and none would be if it lost no more probability at all and became as long as it can (or, where the
                        penalty does not rise, ended now).

These are the rules of transformers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.inference import prompts as prompts_lib
from taxonomy.inference import steps
from taxonomy.inference.steps import Program
from taxonomy.layers.cache import rows_of

_NEVER = -1e9  # a log-probability below all, finite


class Found(NamedTuple):
    """A text: its tokens without the stop token, and its log-probability over the length penalty."""

    tokens: list[int]
    score: float


class Rules(NamedTuple):
    """Of the search, see above."""

    beams: int
    penalty: Any
    early_stopping: bool | str


@struct.dataclass
class State:
    """Running texts, K a prompt, and found ones, best first; `parents_R` are the rows of the cache that running ones continue."""

    step: jax.Array
    running_BKN: jax.Array
    running_scores_BK: jax.Array
    parents_R: jax.Array
    found_BKN: jax.Array
    found_scores_BK: jax.Array
    found_lengths_BK: jax.Array
    is_found_BK: jax.Array
    hopeful_B: jax.Array
    lengths_R: jax.Array
    cache: Any


def search(
    model_spec: spec.Model,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: str = "power(1.0)",
    early_stopping: bool | Literal["never"] = False,
    inputs: Sequence[Sequence[int]] | None = None,
    stop_token: int | Sequence[int] | None = None,
    vocab_size: int | None = None,
    dtype: str = "float32",
    piece: int = 1024,
    cache: str = "exact",
) -> list[list[Found]]:
    """The `beams` best texts found after each prompt, best first. Arguments as in `decode.Decoding`. Raises UserError."""
    penalty = registry.create("length_penalty", length_penalty, "length_penalty")
    vocab_size = model_spec.vocab if vocab_size is None else vocab_size
    prompts_lib.check(model_spec, prompts, inputs, max_new_tokens, vocab_size)
    stops_S = steps.stops(stop_token)
    if not 1 <= beams <= vocab_size - stops_S.size:
        raise UserError(f"beams: must be at least 1 and at most {vocab_size - stops_S.size}, the tokens that go on, got {beams}")
    # Not 1: it is equal to True and has its hash, by which compiled programs are found, but is not True.
    if not (isinstance(early_stopping, bool) or early_stopping == "never"):
        raise UserError(f"early_stopping: must be True, False or 'never', got {early_stopping!r}")
    if not prompts:
        return []
    model_spec, params = steps.ready(model_spec, params)
    room = prompts_lib.rounded(max_new_tokens)
    rules = Rules(beams, penalty, early_stopping)
    how = beams, room, vocab_size, dtype, piece, cache
    program, logits_RV, caches, _, positions_RT = steps.read(model_spec, params, prompts, inputs, *how)
    state = _begin(program, rules, room, caches, logits_RV, positions_RT, stops_S, max_new_tokens)
    state = _extend(program, rules, steps.unrolled(program, params), state, stops_S, max_new_tokens)
    tokens_BKN, lengths_BK, scores_BK = jax.device_get((state.found_BKN, state.found_lengths_BK, state.found_scores_BK))
    found = []
    for rows, lengths, scores in zip(tokens_BKN, lengths_BK, scores_BK, strict=True):
        texts = [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
        texts = [text[:-1] if text[-1] in stops_S else text for text in texts]
        found.append([Found(text, float(score)) for text, score in zip(texts, scores, strict=True)])
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def _begin(program: Program, rules: Rules, room: int, cache, logits_RV, positions_RT, stops_S, limit) -> State:
    """The texts of one token."""
    batch, beams = logits_RV.shape[0] // rules.beams, rules.beams
    no_text_BKN, never_BK = jnp.zeros((batch, beams, room), jnp.int32), jnp.full((batch, beams), _NEVER)
    state = State(
        step=jnp.int32(0),
        running_BKN=no_text_BKN,
        # All beams of a prompt are equal at first, so one of them is extended.
        running_scores_BK=never_BK.at[:, 0].set(0.0),
        parents_R=jnp.arange(batch * beams),
        found_BKN=no_text_BKN,
        found_scores_BK=never_BK,
        found_lengths_BK=jnp.ones((batch, beams), jnp.int32),
        is_found_BK=jnp.zeros((batch, beams), bool),
        hopeful_B=jnp.ones(batch, bool),
        lengths_R=positions_RT.max(1) + 1,
        cache=cache,
    )
    return _chosen(program, rules, state, logits_RV, stops_S, limit)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _extend(program: Program, rules: Rules, params, state: State, stops_S, limit) -> State:
    """The state when the search is over for all prompts."""

    def unfinished(state: State):
        return (state.step < limit) & _open(rules, state).any()

    def step(state: State) -> State:
        cache = rows_of(state.cache, state.parents_R)
        token_R = state.running_BKN[:, :, state.step - 1].reshape(-1)
        positions_R = state.lengths_R + state.step - 1
        logits_RV, cache = steps.forward(program, params, cache, token_R[:, None], positions_R[:, None])
        return _chosen(program, rules, state.replace(cache=cache), logits_RV, stops_S, limit)

    return jax.lax.while_loop(unfinished, step, state)


def _open(rules: Rules, state: State) -> jax.Array:
    """Prompts (B,) for which more is searched."""
    return state.hopeful_B & ~state.is_found_BK.all(1) if rules.early_stopping is True else state.hopeful_B


def _chosen(program: Program, rules: Rules, state: State, logits_RV, stops_S, limit) -> State:
    """The state after one more token in every running text."""
    batch, beams = state.running_scores_BK.shape
    log_RV = jax.nn.log_softmax(logits_RV[:, : program.vocab_size], axis=-1)
    scores_BN = (state.running_scores_BK.reshape(-1, 1) + log_RV).reshape(batch, -1)
    # Each running text can end in as many ways as there are stop tokens.
    candidates = min(max(2, 1 + stops_S.size) * beams, scores_BN.shape[1])
    scores_BC, places_BC = jax.lax.top_k(scores_BN, candidates)
    beam_BC, token_BC = places_BC // program.vocab_size, places_BC % program.vocab_size
    texts_BCN = jnp.take_along_axis(state.running_BKN, beam_BC[:, :, None], axis=1).at[:, :, state.step].set(token_BC)
    length = state.step + 1
    ended_BC = (token_BC[:, :, None] == stops_S).any(-1) | (length == limit)

    found_BC = ended_BC & (jnp.arange(candidates) < beams) & _open(rules, state)[:, None]
    penalised_BC = jnp.where(found_BC, scores_BC / rules.penalty(length.astype(jnp.float32)), _NEVER)
    merged_BM = jnp.concatenate([state.found_scores_BK, penalised_BC], axis=1)
    found_scores_BK, best_BK = jax.lax.top_k(merged_BM, beams)

    def merged(old_BK, new_BC):
        index_BK = best_BK.reshape(best_BK.shape + (1,) * (old_BK.ndim - 2))
        return jnp.take_along_axis(jnp.concatenate([old_BK, new_BC], axis=1), index_BK, axis=1)

    _, on_BK = jax.lax.top_k(jnp.where(ended_BC, _NEVER + scores_BC, scores_BC), beams)
    parents_BK = jnp.take_along_axis(beam_BC, on_BK, axis=1) + beams * jnp.arange(batch)[:, None]
    is_found_BK = merged(state.is_found_BK, found_BC)
    running_scores_BK = jnp.take_along_axis(scores_BC, on_BK, axis=1)
    reachable = limit if rules.early_stopping == "never" and rules.penalty.rises else length
    best_B = running_scores_BK[:, 0] / rules.penalty(jnp.float32(reachable))
    improvable_B = ~is_found_BK.all(1) | (best_B > found_scores_BK.min(1))
    return state.replace(
        step=length,
        running_BKN=jnp.take_along_axis(texts_BCN, on_BK[:, :, None], axis=1),
        running_scores_BK=running_scores_BK,
        parents_R=parents_BK.reshape(-1),
        found_BKN=merged(state.found_BKN, texts_BCN),
        found_scores_BK=found_scores_BK,
        found_lengths_BK=merged(state.found_lengths_BK, jnp.broadcast_to(length, scores_BC.shape)),
        is_found_BK=is_found_BK,
        hopeful_B=state.hopeful_B & improvable_B,
    )
