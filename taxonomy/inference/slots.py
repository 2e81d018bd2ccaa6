"""Continuous batching: a fixed number of rows decoded together, which end and are replaced one by one (Yu et al. 2022, OSDI).

A prompt is read by itself, by a program for its rounded length, and its caches are put in the place of those of a row that has
ended. All rows are then decoded by one program, whatever is asked of each. Long prompts are read in pieces, between which the
other rows are decoded on.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from taxonomy import model as model_lib
from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.inference import prompts as prompts_lib
from taxonomy.inference import steps
from taxonomy.inference.mixed import Mixed, Numbers, numbers
from taxonomy.inference.samplers import Counts
from taxonomy.inference.steps import Program
from taxonomy.layers.cache import check_kind

MOST = 8  # tokens a row in one call
_STOPS = 4  # stop tokens a row


@dataclasses.dataclass(frozen=True)
class Row:
    """A prompt to be continued, as `decode.Decoding` would: its tokens, and what an encoder reads beside them.

    `drawing` are arguments of `mixed.numbers`. `copy` tells rows of one seed apart; copy 0 is drawn as an unbatched row is.
    """

    tokens: tuple[int, ...]
    max_new_tokens: int
    inputs: tuple[int, ...] | None = None
    stop_tokens: tuple[int, ...] = ()
    seed: int = 0
    copy: int = 0
    drawing: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Written(NamedTuple):
    """What a row has got: new tokens, and whether it ended, with a stop token ("stop") or for want of room ("length")."""

    tokens: list[int]
    ended: str | None


@struct.dataclass
class State:
    """B rows, of which those with `left` tokens to be written, above 0, are alive.

    length: of the prompt. step: tokens drawn since. logits: what the next token is drawn from. counts: of new tokens.
    """

    cache: Any
    logits_BV: jax.Array
    counts_BV: jax.Array
    numbers: Numbers
    key_B: jax.Array
    stops_BS: jax.Array
    length_B: jax.Array
    step_B: jax.Array
    left_B: jax.Array


@dataclasses.dataclass
class _Reading:
    """A row whose prompt is being read: how many tokens of it have been, and the caches after them."""

    slot: int
    row: Row
    done: int = 0
    cache: Any = None


class Slots:
    """The rows of one model: `place` them, then `read` and `advance` in turn. Not for several threads at a time."""

    def __init__(
        self,
        model_spec: spec.Model,
        params: Mapping[str, Any],
        *,
        slots: int,
        max_length: int,
        max_inputs: int | None = None,
        vocab_size: int | None = None,
        dtype: str = "float32",
        piece: int = 512,
        cache: str = "exact",
    ):
        """`max_length`: tokens of a prompt and its continuation that a slot has room for. `piece`: of prompts, read at a time.

        `max_inputs`: tokens that an encoder beside reads at most, by default as many as the model is made for. `cache`: what is
        kept of keys and values, see `layers.cache`. Raises UserError.
        """
        check_kind(cache)
        if "decoder" not in model_spec.stacks:
            raise UserError("serve: the model is an encoder; it has nothing to continue a text with")
        if slots < 1:
            raise UserError(f"slots: must be at least 1, got {slots}")
        limit = model_lib.position_limit(model_spec)
        if max_length < 2 or (limit is not None and max_length > limit):
            allowed = "at least 2" if limit is None else f"2 to {limit}, the positions that the model knows"
            raise UserError(f"max_length: {max_length} is not allowed; {allowed}")
        self.max_inputs = max(model_spec.inputs, max_length) if max_inputs is None else max_inputs
        self.max_length, self.vocab_size = max_length, model_spec.vocab if vocab_size is None else vocab_size
        self.beside_encoder = len(model_spec.stacks) > 1
        self._checked, self._piece = model_spec, piece
        model_spec, params = steps.ready(model_spec, params)
        self._program = Program(model_spec, dtype, max_length, self.vocab_size, cache)
        # Both programs read parameters of the type they compute in, which are cast once.
        self._read_params = steps.cast(params, model_spec, dtype)
        self._params = steps.unrolled(self._program, self._read_params)
        self._state, self._axes = self._empty(slots)
        self._taken = np.zeros(slots, bool)
        self._ended = np.zeros(slots, bool)
        self._reading: collections.deque[_Reading] = collections.deque()
        self._last: tuple[Any, Any] = (None, None)

    @property
    def free(self) -> int:
        """Slots that have no row."""
        return int((~self._taken).sum())

    @property
    def size(self) -> int:
        """Slots in all."""
        return len(self._taken)

    @property
    def cache_bytes(self) -> int:
        """Of all slots."""
        return sum(x.nbytes for x in jax.tree.leaves(self._state.cache))

    def check(self, row: Row) -> None:
        """Raises UserError on a row that cannot be continued."""
        inputs = None if row.inputs is None else [row.inputs]
        prompts_lib.check(self._checked, [row.tokens], inputs, row.max_new_tokens, self.vocab_size)
        # The last new token is never read.
        if len(row.tokens) + row.max_new_tokens - 1 > self.max_length:
            raise UserError(
                f"max_new_tokens: {row.max_new_tokens} after a prompt of {len(row.tokens)} tokens is more than there is room for, "
                f"{self.max_length}"
            )
        if len(row.inputs or ()) > self.max_inputs:
            raise UserError(f"inputs: {len(row.inputs)} tokens are more than there is room for, {self.max_inputs}")
        if len(row.stop_tokens) > _STOPS:
            raise UserError(f"stop_tokens: at most {_STOPS} allowed, got {len(row.stop_tokens)}")

    def place(self, row: Row) -> int:
        """Gives a row a free slot, whose number is returned; its prompt will be read."""
        self.check(row)
        slot = int(np.flatnonzero(~self._taken)[0])
        self._taken[slot] = True
        self._reading.append(_Reading(slot, row))
        return slot

    def read(self) -> None:
        """Reads prompts of rows that have a slot: a piece, or some short ones. Equal ones, one after another, are read once."""
        tokens = 0
        while self._reading and tokens < self._piece:
            one = self._reading[0]
            wanted = one.row.tokens, one.row.inputs
            if self._last[0] != wanted:
                self._last = (None, None)  # its memory is free before it is needed
                tokens += self._read_on(one)
            if self._last[0] == wanted:
                self._begin(one, *self._last[1])
                self._reading.popleft()

    def advance(self, tokens: int = 1, until_free: bool = False) -> dict[int, Written]:
        """Writes at most so many tokens, and `MOST`, in all rows; what each has got, by slot. A row that ends leaves its slot.

        With `until_free` it ends as soon as a slot is free.
        """
        many = min(max(1, tokens), MOST)
        self._state, found = _advanced(self._program, self._params, self._state, self._ended, many, until_free)
        self._ended[:] = False
        new_BN, taken_B, left_B, stopped_B = jax.device_get(found)
        written = {}
        for slot in sorted({*np.flatnonzero(self._taken)} - {one.slot for one in self._reading}):
            ended = None if left_B[slot] else "stop" if stopped_B[slot] else "length"
            written[int(slot)] = Written(new_BN[slot, : taken_B[slot]].tolist(), ended)
            self._taken[slot] = ended is None
        return written

    def end(self, slot: int) -> None:
        """Frees a slot."""
        self._ended[slot] = True
        self._taken[slot] = False
        self._reading = collections.deque(one for one in self._reading if one.slot != slot)

    def _read_on(self, one: _Reading) -> int:
        """Reads the next piece of a prompt, and keeps logits (1, V) and caches once it was the last; how many tokens that were."""
        row, program = one.row, self._program
        if len(row.tokens) <= self._piece or program.model.prefixed:
            inputs, piece = None if row.inputs is None else [row.inputs], self._piece
            if program.model.prefixed:
                piece = max(piece, prompts_lib.rounded(len(row.tokens)))
            how = (1, 0, self.vocab_size, program.dtype, piece, program.cache)
            _, logits_1V, cache, *_ = steps.read(program.model, self._read_params, [row.tokens], inputs, *how)
            one.done = len(row.tokens)
        else:
            tokens_1T, positions_1T = (
                x[:, one.done : one.done + self._piece] for x in prompts_lib.padded([row.tokens], self._piece)
            )
            if one.done == 0:
                logits_1V, cache = steps.prefill(program, self._piece, self._read_params, tokens_1T, positions_1T, {})
            else:
                logits_1V, cache = _extended(program, self._params, one.cache, tokens_1T, positions_1T)
            one.done, one.cache = one.done + self._piece, cache
        # What comes after is timed, without what came before.
        jax.block_until_ready(logits_1V)
        if one.done >= len(row.tokens):
            self._last = (row.tokens, row.inputs), (logits_1V[:, : self.vocab_size], cache)
        return min(len(row.tokens), self._piece) + len(row.inputs or ())

    def _begin(self, one: _Reading, logits_1V: jax.Array, cache: Any) -> None:
        """Puts a row whose prompt was read into its slot."""
        row, key = one.row, steps.key(one.row.seed)
        if row.copy:
            # Numbers from the top: those from below are the steps'.
            key = jax.random.fold_in(key, np.uint32(2**32 - row.copy))
        stops_1S = np.full((1, _STOPS), -1, np.int32)
        stops_1S[0, : len(row.stop_tokens)] = row.stop_tokens
        length, step, left = (np.array([n], np.int32) for n in (len(row.tokens), 0, row.max_new_tokens))
        drawing, counts_1V = numbers(self.vocab_size, **row.drawing), np.zeros((1, self.vocab_size), np.int32)
        state = State(cache, logits_1V, counts_1V, drawing, key[None], stops_1S, length, step, left)
        self._state = _placed(self._axes, self._state, state, one.slot)
        self._ended[one.slot] = False

    def _empty(self, rows: int) -> tuple[State, tuple[int, ...]]:
        """A state without rows alive, and on which axis of each array of it the rows are."""

        def shapes(rows: int) -> State:
            tokens_BT = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
            memory_BS = jax.ShapeDtypeStruct((rows, prompts_lib.rounded(self.max_inputs)), jnp.int32)
            given = {"inputs": memory_BS, "input_positions": memory_BS} if self.beside_encoder else {}
            read = functools.partial(steps.prefill, self._program, 1)
            _, cache = jax.eval_shape(read, self._read_params, tokens_BT, tokens_BT, given)
            drawing = numbers(self.vocab_size)
            of_all = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), drawing)
            floats_BV, counts_BV = (jax.ShapeDtypeStruct((rows, self.vocab_size), t) for t in (jnp.float32, jnp.int32))
            keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
            stops_BS, numbers_B = (jax.ShapeDtypeStruct((rows, *more), jnp.int32) for more in ((_STOPS,), ()))
            return State(cache, floats_BV, counts_BV, of_all, keys_B, stops_BS, numbers_B, numbers_B, numbers_B)

        one, wanted = shapes(1), shapes(rows)
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(shapes(2)), strict=True)
        # Where layers stand side by side in an array, rows are not its first axis.
        axes = tuple(next(i for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if a != b) for x, y in pairs)

        @jax.jit
        def fresh() -> State:
            cache = jax.tree.map(lambda x: jnp.full(x.shape, _filler(x.dtype), x.dtype), wanted.cache)
            rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), wanted.replace(cache=None, key_B=None))
            return rest.replace(cache=cache, key_B=jax.random.split(jax.random.key(0), rows))

        return fresh(), axes


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _extended(program: Program, params, cache, tokens_1T: jax.Array, positions_1T: jax.Array) -> tuple[jax.Array, Any]:
    """Logits (1, V) after a piece more of a prompt, and its caches."""
    return steps.forward(program, params, cache, tokens_1T, positions_1T)


def _filler(dtype: Any) -> int:
    """What stands where a cache is empty: positions are whole numbers, and -1 there."""
    return -1 if jnp.issubdtype(dtype, jnp.integer) else 0


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _placed(axes: tuple[int, ...], state: State, one: State, slot: jax.Array) -> State:
    """The state with one row more in a slot. The row's caches may have room for fewer tokens, or for padding beyond the slot's."""

    def put(many: jax.Array, row: jax.Array, axis: int) -> jax.Array:
        if many.ndim > 1:
            row = row[tuple(slice(0, size) if i != axis else slice(None) for i, size in enumerate(many.shape))]
            room = [(0, 0 if i == axis else size - row.shape[i]) for i, size in enumerate(many.shape)]
            row = jnp.pad(row, room, constant_values=_filler(many.dtype))
        return many.at[(slice(None),) * axis + (slot,)].set(jax.lax.index_in_dim(row, 0, axis, keepdims=False))

    leaves, structure = jax.tree.flatten(state)
    return structure.unflatten(map(put, leaves, structure.flatten_up_to(one), axes))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advanced(program: Program, params, state: State, ended_B, many, until_free):
    """The state after at most `many` tokens more in each row alive, once those that `ended` are not.

    And what was written: tokens (B, N) of which the first taken_B count, left_B, and which rows a stop token ended.
    """
    state = state.replace(left_B=jnp.where(ended_B, 0, state.left_B))
    alive_B, rows = state.left_B > 0, state.left_B.shape[0]
    nothing = jnp.zeros((rows, MOST), jnp.int32), jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)

    def unfinished(carried):
        i, state, _ = carried
        left_B = state.left_B > 0
        return (i < many) & left_B.any() & ~(until_free & (alive_B & ~left_B).any())

    def step(carried):
        i, state, (new_BN, taken_B, stopped_B) = carried
        key_B = jax.vmap(jax.random.fold_in)(state.key_B, state.step_B)
        token_B = Mixed(state.numbers).sample(key_B, state.logits_BV, Counts(state.counts_BV, state.counts_BV))
        alive_B, stop_B = state.left_B > 0, (token_B[:, None] == state.stops_BS).any(1)
        said_B = alive_B & ~stop_B
        left_B = jnp.where(said_B, state.left_B - 1, 0)
        written = new_BN.at[:, i].set(token_B), taken_B + said_B, stopped_B | (alive_B & stop_B)
        positions_B = jnp.where(left_B > 0, state.length_B + state.step_B, -1)
        logits_BV, cache = steps.forward(program, params, state.cache, token_B[:, None], positions_B[:, None])
        state = state.replace(
            cache=cache,
            logits_BV=logits_BV[:, : program.vocab_size],
            counts_BV=state.counts_BV.at[jnp.arange(rows), token_B].add(said_B),
            step_B=state.step_B + 1,
            left_B=left_B,
        )
        return i + 1, state, written

    _, state, written = jax.lax.while_loop(unfinished, step, (0, state, nothing))
    new_BN, taken_B, stopped_B = written
    return state, (new_BN, taken_B, state.left_B, stopped_B)
