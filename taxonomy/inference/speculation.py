"""Speculative decoding: a draft of the next tokens is cheap, and the model checks all of it at once.

What is written has the distribution that it would have without (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023,
arXiv:2302.01318): a token drawn with probability q is kept with probability min(1, p / q), where p is what the sampler makes of the
model's logits; instead of the first one that is not kept one is drawn from max(p - q, 0), and after all of them one more from p. So
the greedy continuation is the same, except where rounding decides between two tokens.

Rows keep different numbers of tokens and stand at positions of their own. Keys of tokens that are not kept are forgotten.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.inference import samplers, steps
from taxonomy.inference.drafts import Asked, Draft, Proposal, Proposer, Rows, each, gumbel
from taxonomy.inference.prompts import rounded
from taxonomy.inference.samplers import Counts, Sampler
from taxonomy.inference.steps import Drawing, Program
from taxonomy.layers.cache import forgotten


class Tally(NamedTuple):
    """What speculation came to, over all rows: checks of a draft by the model, tokens proposed to them and tokens kept."""

    checks: int
    proposed: int
    kept: int

    @property
    def share(self) -> float:
        """Of the proposed tokens, those kept; nan where none was proposed."""
        return self.kept / self.proposed if self.proposed else float("nan")

    @property
    def tokens_per_check(self) -> float:
        """Tokens that a row got each time the model read it: one without speculation."""
        return 1 + self.kept / self.checks if self.checks else float("nan")

    def __str__(self) -> str:
        return f"{self.kept} of {self.proposed} proposed tokens kept, {self.tokens_per_check:.2f} tokens a step of the model"


@struct.dataclass
class State:
    """Rows being continued, as in `steps.State`. text_BL: all tokens of a row by position, prompt first. memory: the draft's.

    tally_3: see `Tally`.
    """

    text_BL: jax.Array
    taken_B: jax.Array
    done_B: jax.Array
    lengths_R: jax.Array
    counts: Counts | None
    cache: Any
    memory: Any
    tally_3: jax.Array

    @property
    def new_BN(self) -> jax.Array:
        """New tokens, of which the first taken_B count."""
        time = self.text_BL.shape[1]
        places_BN = self.lengths_R[: len(self.text_BL), None] + jnp.arange(time)
        return jnp.take_along_axis(self.text_BL, jnp.minimum(places_BN, time - 1), axis=1)


class Speculation:
    """Rows continued with a draft: what `decode.Decoding` asks for in place of single steps."""

    def __init__(
        self,
        given: tuple[spec.Model, Mapping[str, Any]],
        draft: str | Draft,
        prompts: Sequence[Sequence[int]],
        inputs: Sequence[Sequence[int]] | None,
        unguided: int,
        *,
        copies: int,
        max_new_tokens: int,
        vocab_size: int,
        dtype: str,
        piece: int,
        cache: str,
        sampler: Sampler,
        drawing: Drawing,
    ):
        """Reads the prompts, of which the first `unguided` are continued and the others are without their condition."""
        draft = registry.create("draft", draft, "speculate") if isinstance(draft, str) else draft
        draft = draft.ready(*given)
        check(given[0].alone, draft.tokens)
        model, params = steps.ready(*given)
        room = rounded(max_new_tokens)
        read = steps.read(model, params, prompts, inputs, copies, room, vocab_size, dtype, piece, cache, draft.tokens)
        program, logits_RV, cache, tokens_RT, positions_RT = read
        rows, unrolled = unguided * copies, steps.unrolled(program, params)
        asked = Asked(
            given,
            params,
            unrolled,
            program,
            prompts[:unguided],
            None if inputs is None else inputs[:unguided],
            copies,
            room,
            max_new_tokens,
            piece,
            tokens_RT[:rows],
            positions_RT[:rows],
        )
        proposer, of_draft, memory = draft.begin(asked)
        self._static, self._params, self._limit = (program, sampler, proposer), (unrolled, of_draft), max_new_tokens
        begun = steps.begin(program, sampler, 1, cache, logits_RV, tokens_RT, positions_RT, drawing)
        text_BL = _begun(room, tokens_RT[:rows], begun.lengths_R[:rows], begun.token_B)
        done_B, tally_3 = begun.done_B | (max_new_tokens == 1), jnp.zeros(3, jnp.int32)
        self.state = State(text_BL, begun.taken_B, done_B, begun.lengths_R, begun.counts, begun.cache, memory, tally_3)

    def extend(self, state: State, until: int, drawing: Drawing) -> State:
        """Writes on until every row has at least `until` tokens or has ended."""
        return _extend(*self._static, self._params, state, until, self._limit, drawing)


def check(model: spec.Model, tokens: int) -> None:
    """Raises UserError for a model that says something else where it reads several tokens at once than one by one."""
    for part in model.components():
        if part.kind == "router" and not registry.find(("router",), part.name).factory.causal:
            raise UserError(f"speculate: the router '{part.name}' looks at later tokens, so the model cannot check a draft")
        if part.name == "moe" and not registry.instantiate(part, parent=None).takes_all(tokens + 1):
            bounds = ", ".join(
                f"{key}={part[key]}" for key in ("capacity", "evaluation_capacity", "slots") if part[key] is not None
            )
            raise UserError(f"speculate: moe({bounds}) may drop tokens where it reads {tokens + 1} at once, but never a single one")


@functools.partial(jax.jit, static_argnums=0)
def _begun(room: int, tokens_BT, lengths_B, token_B) -> jax.Array:
    """Rows of prompts followed by their first token and place for `room` tokens in all, (B, T + room)."""
    return jnp.pad(tokens_BT, ((0, 0), (0, room))).at[jnp.arange(token_B.size), lengths_B].set(token_B)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4,))
def _extend(program: Program, sampler: Sampler, proposer: Proposer, params, state: State, until, limit, drawing: Drawing) -> State:
    """Draws on until `until` tokens are drawn in all rows that have not ended."""

    def unfinished(state: State):
        return (~state.done_B & (state.taken_B < until)).any()

    def step(state: State) -> State:
        rows, count = state.done_B.shape[0], proposer.tokens
        left_B = jnp.where(state.done_B, 0, limit - state.taken_B)
        # Of the row and its length, so that what is drawn does not depend on the steps by which it was reached.
        keys_B = each(each(jnp.broadcast_to(drawing.key, rows), jnp.arange(rows)), state.taken_B)
        now = Rows(state.text_BL, state.lengths_R[:rows] + state.taken_B, left_B, each(keys_B, 0), state.counts)
        proposal, memory = proposer.propose(sampler, params[1], state.memory, now)
        proposal = proposal.replace(count_B=jnp.clip(proposal.count_B, 0, jnp.maximum(left_B - 1, 0)))

        tokens_BT = jnp.concatenate([now.token(now.known_B[:, None] - 1), proposal.tokens_BK], axis=1)
        copies, ahead_T = state.lengths_R.shape[0] // rows, jnp.arange(count + 1)
        last_R = state.lengths_R + jnp.tile(state.taken_B, copies) - 1
        read_BT = (ahead_T <= proposal.count_B[:, None]) & (left_B > 0)[:, None]
        positions_RT = jnp.where(jnp.tile(read_BT, (copies, 1)), last_R[:, None] + ahead_T, -1)
        tokens_RT = jnp.tile(tokens_BT, (copies, 1))
        (logits_RTV, x_RTD), cache = steps.forward(program, params[0], state.cache, tokens_RT, positions_RT, "following")
        logits_BTV = logits_RTV[:, :, : program.vocab_size]
        if drawing.guidance is not None:
            logits_BTV = steps.guided(logits_BTV, drawing.guidance)
        chances_BTV = _chances(sampler, logits_BTV, proposal, state.counts)
        kept_B, token_B = judged(each(keys_B, 1), chances_BTV, proposal)

        new_BT = jnp.where(ahead_T == kept_B[:, None], token_B[:, None], jnp.pad(proposal.tokens_BK, ((0, 0), (0, 1))))
        ends_BT = (new_BT[:, :, None] == drawing.stops_S).any(-1) & (ahead_T <= kept_B[:, None])
        counts_BT = (ahead_T <= kept_B[:, None]) & (jnp.cumsum(ends_BT, 1) == 0) & (left_B > 0)[:, None]
        taken_B = state.taken_B + counts_BT.sum(1, dtype=jnp.int32)
        places_BT = jnp.where(counts_BT, now.known_B[:, None] + ahead_T, state.text_BL.shape[1])
        counts = state.counts
        if counts is not None:
            counts = counts.replace(new_BV=steps.added(counts.new_BV, new_BT, counts_BT))
        found_3 = jnp.stack([left_B > 0, proposal.count_B, jnp.where(left_B > 0, kept_B, 0)]).sum(1, dtype=jnp.int32)
        return state.replace(
            text_BL=state.text_BL.at[jnp.arange(rows)[:, None], places_BT].set(new_BT, mode="drop"),
            taken_B=taken_B,
            done_B=state.done_B | ends_BT.any(1) | (taken_B == limit),
            counts=counts,
            cache=forgotten(cache, last_R + jnp.tile(kept_B, copies)),
            memory=proposer.settle(memory, now, kept_B, x_RTD[:rows]),
            tally_3=state.tally_3 + found_3,
        )

    return jax.lax.while_loop(unfinished, step, state)


def _chances(sampler: Sampler, logits_BTV, proposal: Proposal, counts: Counts | None) -> jax.Array:
    """The probabilities (B, T, V) from which the sampler would draw after none, one, ... of the proposed tokens."""
    batch, time, vocab = logits_BTV.shape
    if counts is not None:
        said_BTV = jnp.pad(jax.nn.one_hot(proposal.tokens_BK, vocab, dtype=jnp.int32), ((0, 0), (1, 0), (0, 0)))
        new_BTV = counts.new_BV[:, None] + jnp.cumsum(said_BTV, axis=1)
        counts = Counts(jnp.repeat(counts.prompt_BV, time, axis=0), new_BTV.reshape(-1, vocab))
    return jax.nn.softmax(sampler.filter(logits_BTV.reshape(-1, vocab), counts)).reshape(batch, time, vocab)


def judged(keys_B: jax.Array, chances_BTV: jax.Array, proposal: Proposal) -> tuple[jax.Array, jax.Array]:
    """How many of the proposed tokens are kept (B,), and the token that follows them (B,).

    `chances_BTV`: the probabilities of tokens after none of the proposed ones, after the first, ... after all K = T - 1.
    """
    count, vocab = proposal.tokens_BK.shape[1], chances_BTV.shape[-1]
    wanted_BK = jnp.take_along_axis(chances_BTV[:, :-1], proposal.tokens_BK[:, :, None], axis=2)[:, :, 0]
    said_BK = jnp.ones_like(wanted_BK)
    if proposal.chances_BKV is not None:
        said_BK = jnp.take_along_axis(proposal.chances_BKV, proposal.tokens_BK[:, :, None], axis=2)[:, :, 0]
    uniform_BK = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(each(keys_B, 0))
    # Below one, so that a certain token is kept; where p is zero none is.
    keeps_BK = (uniform_BK * said_BK < wanted_BK) & (jnp.arange(count) < proposal.count_B[:, None])
    kept_B = jnp.cumprod(keeps_BK.astype(jnp.int32), axis=1).sum(1)

    at_B11 = kept_B[:, None, None]
    chances_BV = jnp.take_along_axis(chances_BTV, at_B11, axis=1)[:, 0]
    refused_B11 = jnp.minimum(at_B11, count - 1)
    if proposal.chances_BKV is None:
        refused_B1 = jnp.take_along_axis(proposal.tokens_BK, refused_B11[:, :, 0], axis=1)
        drawn_BV = (jnp.arange(vocab) == refused_B1).astype(chances_BV.dtype)
    else:
        drawn_BV = jnp.take_along_axis(proposal.chances_BKV, refused_B11, axis=1)[:, 0]
    rest_BV = jnp.where((kept_B < proposal.count_B)[:, None], jnp.maximum(chances_BV - drawn_BV, 0.0), chances_BV)
    # Nothing may be left by rounding alone, where p and q are almost the same.
    rest_BV = jnp.where(rest_BV.max(1, keepdims=True) > 0, rest_BV, chances_BV)
    return kept_B, samplers.best(jnp.log(rest_BV), gumbel(each(keys_B, 1), vocab))
