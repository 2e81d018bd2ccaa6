"""The compiled programs of generation: prompts in one pass or in pieces, then a token a row at a time with keys and values kept.

Prompts run through the scanned model, which compiles quickly. The loop over new tokens runs through the unrolled one: a scan would
copy every layer's cache at every step.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta

from taxonomy import model as model_lib
from taxonomy import spec, stack
from taxonomy.inference import kept
from taxonomy.inference.prompts import padded
from taxonomy.inference.samplers import Counts, Sampler
from taxonomy.layers.cache import check_kind
from taxonomy.layers.params import MATRIX_ROLES, Declared, turned

_WORD = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled: a model, the type it computes in, the tokens a row's cache has room for, the tokens that may be drawn.

    cache: what the caches keep of them, see `layers.cache`. spare: of the tokens in caches, so many may be taken back.
    """

    model: spec.Model
    dtype: str
    cache_length: int
    vocab_size: int
    cache: str = "exact"
    spare: int = 0


@struct.dataclass
class Drawing:
    """How tokens are drawn: the key of all draws, the tokens at which a row ends (S,), and the weight of guidance, if any.

    allowed_BW: the only tokens that may come next, of each row, if not all; eight to a byte, from the lowest bit on.
    """

    key: jax.Array
    stops_S: jax.Array
    guidance: jax.Array | None = None
    allowed_BW: jax.Array | None = None


@struct.dataclass
class State:
    """Rows being continued; the arrays live in the buffers they came in.

    step: tokens drawn in every row, new_BN: these tokens, of which the first taken_B count; the others came after a row's end.
    token_B: the last one. done_B: rows that have ended. lengths_R: of prompts. R rows are computed for B of text: B, or with
    guidance 2 B, the second half without their condition.
    """

    step: jax.Array
    token_B: jax.Array
    new_BN: jax.Array
    taken_B: jax.Array
    done_B: jax.Array
    lengths_R: jax.Array
    counts: Counts | None
    cache: Any


def ready(model_spec: spec.Model, params: Mapping[str, Any]) -> tuple[spec.Model, dict[str, Any]]:
    """A model as it is after training, and its parameters in the scanned layout, from either."""
    model_spec, params = model_lib.nets(model_spec, meta.unbox(params))["model"]
    loops = {name: layers for name, layers in model_spec.stacks.items() if not stack.is_stacked(params[name])}
    return model_spec, {**params, **{name: stack.restack(params[name], layers) for name, layers in loops.items()}}


def key(seed: int | jax.Array) -> jax.Array:
    """The key of all draws, from a seed of 64 bits at most or given as it is."""
    if isinstance(seed, jax.Array):
        return seed
    high, low = (int(seed) >> 32) & _WORD, int(seed) & _WORD
    # JAX takes the lower word alone; both make the key that it would make with 64 bits.
    return jax.random.wrap_key_data(np.array([high, low], np.uint32)) if high else jax.random.key(np.uint32(low))


def stops(stop_token: int | Sequence[int] | None) -> np.ndarray:
    """Tokens at which rows end, (S,)."""
    return np.array([] if stop_token is None else stop_token, np.int32).reshape(-1)


def read(
    model_spec: spec.Model,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    inputs: Sequence[Sequence[int]] | None,
    copies: int,
    room: int,
    vocab_size: int,
    dtype: str,
    piece: int,
    cache: str = "exact",
    spare: int = 0,
):
    """The program for these prompts and `room` new tokens, logits (R, V) and caches after them, tokens and positions (R, T).

    Every prompt is read once and then stands in `copies` rows side by side.
    """
    check_kind(cache)
    tokens_BT, positions_BT = padded(prompts, piece)
    given = {} if inputs is None else dict(zip(("inputs", "input_positions"), padded(inputs), strict=True))
    program = Program(model_spec, dtype, tokens_BT.shape[1] + room, vocab_size, cache, spare)
    after = prefill(program, piece, params, tokens_BT, positions_BT, given)
    logits_RV, caches = after if copies == 1 else _repeated(after, copies)
    return program, logits_RV, caches, np.repeat(tokens_BT, copies, axis=0), np.repeat(positions_BT, copies, axis=0)


@functools.partial(jax.jit, static_argnums=1)
def _repeated(tree: Any, copies: int) -> Any:
    """Arrays with every row `copies` times, side by side."""
    return jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), tree)


def unrolled(program: Program, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a step reads, from parameters in the scanned layout; on CPU in a layout of its own. Kept for the next call."""
    params = {name: value for name, value in params.items() if not name.startswith("encoder")}
    return _read_by_steps((program.model, program.dtype), params)


@kept.while_alive
def _read_by_steps(program: tuple[spec.Model, str], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a model that computes in a type, as `unrolled` says."""
    params = cast(params, *program)
    return {**params, "decoder": _laid_out(program[0], params["decoder"])}


@functools.partial(jax.jit, static_argnums=0)
def _laid_out(model_spec: spec.Model, decoder):
    """The decoder's parameters in the unrolled layout, on CPU with kernels turned."""
    if jax.default_backend() == "cpu":
        boxes = _declared(model_spec)["decoder"]
        decoder = jax.tree.map(turned, boxes, decoder, is_leaf=lambda leaf: isinstance(leaf, Declared))
    return stack.unstack(decoder, model_spec.decoder)


@functools.lru_cache(maxsize=16)
def _declared(model_spec: spec.Model):
    """Declarations of a model's parameters, in the scanned layout."""
    module = model_lib.build(model_spec)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), **model_lib.blank(model_spec)))["params"]


def cast(params: Mapping[str, Any], model_spec: spec.Model, dtype: str) -> dict[str, Any]:
    """What the model casts at every use (matrices and tables), cast once: decoding reads all of it at every step."""
    roles = {*MATRIX_ROLES, "embedding", "position"} - {"router"}  # routers compute in float32

    def one(declaration: Declared, value: jax.Array) -> jax.Array:
        return jnp.asarray(value, dtype if declaration.role in roles else None)

    declared = {name: _declared(model_spec)[name] for name in params}
    return jax.tree.map(one, declared, dict(params), is_leaf=lambda leaf: isinstance(leaf, Declared))


@functools.partial(jax.jit, static_argnums=(0, 1))
def prefill(program: Program, piece: int, params, tokens_BT, positions_BT, given):
    """Logits (B, V) after each prompt, and the caches in the unrolled layout. `given`: what the encoder reads, if there is one.

    Prompts of more than `piece` tokens, a multiple of it, are read piece by piece, which bounds the memory that they take.
    Prompts all of whose tokens see each other cannot be, and are read at once.
    """
    model = model_lib.build(program.model, dtype=program.dtype, spare=program.spare)
    if program.model.prefixed:
        piece = tokens_BT.shape[1]
        given = {**given, "prefix": positions_BT >= 0}  # all of a prompt

    def read(cache, tokens_BT, positions_BT, given):
        options = {"method": "last_logits", "mutable": ["cache"], "cache": program.cache, **given}
        logits_BV, state = model.apply({"params": params, **cache}, tokens_BT, positions_BT, program.cache_length, **options)
        return logits_BV, {"cache": state["cache"]}

    def read_on(before, brought):
        logits_BV, cache = before
        tokens_BT, positions_BT = brought
        new_BV, cache = read(cache, tokens_BT, positions_BT, {})
        reached_B1 = (positions_BT >= 0).any(1, keepdims=True)
        return (jnp.where(reached_B1, new_BV, logits_BV), cache), None

    after = read({}, tokens_BT[:, :piece], positions_BT[:, :piece], given)
    if tokens_BT.shape[1] > piece:
        rest = (x[:, piece:].reshape(x.shape[0], -1, piece).swapaxes(0, 1) for x in (tokens_BT, positions_BT))
        after, _ = jax.lax.scan(read_on, after, tuple(rest))
    logits_BV, cache = after[0], after[1]["cache"]
    return logits_BV, {**cache, "decoder": stack.unstack(cache["decoder"], program.model.decoder)}


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def begin(program: Program, sampler: Sampler, room: int, cache, logits_RV, tokens_RT, positions_RT, drawing: Drawing) -> State:
    """The first token after each prompt; at most `room` will be drawn."""
    rows = logits_RV.shape[0] // (1 if drawing.guidance is None else 2)
    counts = None
    if sampler.counted:
        nothing_BV = jnp.zeros((rows, program.vocab_size), jnp.int32)
        counts = Counts(added(nothing_BV, tokens_RT[:rows], positions_RT[:rows] >= 0), nothing_BV)
    zeros_B, new_BN, lengths_R = jnp.zeros(rows, jnp.int32), jnp.zeros((rows, room), jnp.int32), positions_RT.max(1) + 1
    state = State(jnp.int32(0), zeros_B, new_BN, zeros_B, zeros_B > 0, lengths_R, counts, cache)
    return _drawn(program, sampler, state, logits_RV, drawing)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def extend(program: Program, sampler: Sampler, params, state: State, until, drawing: Drawing) -> State:
    """Draws on until `until` tokens are drawn or all rows have ended. `params` are those of `unrolled`."""

    def unfinished(state: State):
        return (state.step < until) & ~state.done_B.all()

    def step(state: State) -> State:
        copies = state.lengths_R.shape[0] // state.token_B.shape[0]
        token_R, done_R = jnp.tile(state.token_B, copies), jnp.tile(state.done_B, copies)
        # A row that has ended is padding from then on.
        positions_R = jnp.where(done_R, -1, state.lengths_R + state.step - 1)
        logits_RV, cache = forward(program, params, state.cache, token_R[:, None], positions_R[:, None])
        return _drawn(program, sampler, state.replace(cache=cache), logits_RV, drawing)

    return jax.lax.while_loop(unfinished, step, state)


@functools.partial(jax.jit, donate_argnums=0)
def redrawn(state: State, row, token) -> State:
    """The state in which a row's last token is another one."""
    counts = state.counts
    if counts is not None:
        new_BV = counts.new_BV.at[row, state.token_B[row]].add(-1, mode="drop").at[row, token].add(1, mode="drop")
        counts = counts.replace(new_BV=new_BV)
    new_BN = state.new_BN.at[row, state.step - 1].set(token)
    return state.replace(token_B=state.token_B.at[row].set(token), new_BN=new_BN, counts=counts)


def forward(
    program: Program, params, cache, tokens_RT: jax.Array, positions_RT: jax.Array, method: str = "last_logits"
) -> tuple[Any, Any]:
    """Logits (R, V) after one token more in each row, or several, or what another method of the model gives; caches with them."""
    model = model_lib.build(program.model, dtype=program.dtype, spare=program.spare, scan=False)
    variables, options = {"params": params, "cache": cache}, {"method": method, "mutable": ["cache"]}
    found, new = model.apply(variables, tokens_RT, positions_RT, program.cache_length, **options)
    return found, new["cache"]


def _drawn(program: Program, sampler: Sampler, state: State, logits_RV, drawing: Drawing) -> State:
    """The state after one more draw."""
    logits_BV = logits_RV[:, : program.vocab_size]
    if drawing.guidance is not None:
        logits_BV = guided(logits_BV, drawing.guidance)
    if drawing.allowed_BW is not None:
        logits_BV = jnp.where(_unpacked(drawing.allowed_BW, program.vocab_size), logits_BV, -jnp.inf)
    key = jax.random.fold_in(drawing.key, state.step)
    token_B = sampler.sample(key, logits_BV, state.counts)
    done_B = state.done_B | (token_B[:, None] == drawing.stops_S).any(1)
    counts = state.counts
    if counts is not None:
        counts = counts.replace(new_BV=added(counts.new_BV, token_B[:, None], ~done_B[:, None]))
    return state.replace(
        step=state.step + 1,
        token_B=token_B,
        new_BN=state.new_BN.at[:, state.step].set(token_B),
        taken_B=state.taken_B + ~done_B,
        done_B=done_B,
        counts=counts,
    )


def guided(logits: jax.Array, weight: jax.Array) -> jax.Array:
    """Logits (B, ...) of twice as many rows, the second half without their condition."""
    conditional, other = jnp.split(logits, 2)
    return conditional + weight * (conditional - other)


def _unpacked(bits_BW: jax.Array, size: int) -> jax.Array:
    """The first `size` bits of each row, as bools."""
    bits_BW8 = bits_BW[..., None] >> jnp.arange(8, dtype=bits_BW.dtype)
    return bits_BW8.reshape(bits_BW.shape[0], -1)[:, :size] & 1 == 1


def added(counts_BV: jax.Array, tokens_BT: jax.Array, real_BT: jax.Array) -> jax.Array:
    """Counts with those of real tokens added; tokens beyond the vocabulary are not counted."""
    rows = jnp.arange(tokens_BT.shape[0])[:, None]
    return counts_BV.at[rows, tokens_BT].add(real_BT.astype(jnp.int32), mode="drop")
