"""Generation: the prompts in one pass, then a token a row at a time with keys and values kept.

The prompts run through the scanned model, which compiles quickly. The loop over new tokens runs through the unrolled one: a scan
would copy every layer's cache at every step. Lengths are rounded up, so that a few compiled programs serve all prompts.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.core import meta

from taxonomy import model as model_lib
from taxonomy import registry, spec, stack
from taxonomy.errors import UserError
from taxonomy.inference.samplers import Sampler
from taxonomy.layers.params import MATRIX_ROLES, Declared

_SMALLEST_LENGTH = 16


class Tokenizer(Protocol):
    """What generation needs of a tokenizer. `document_start` begins every document; a model predicts `document_end` at its end."""

    document_start: int
    document_end: int
    vocab_size: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


def generate(
    config: ml_collections.ConfigDict,
    params: Mapping[str, Any],
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    max_new_tokens: int = 64,
    sampler: str = "greedy",
    seed: int = 0,
    stop: bool = True,
) -> list[str]:
    """The text that follows each prompt, without the prompt, up to the end of the document when `stop`.

    With an encoder, the prompts are what it reads, and the text is the decoder's.
    Computed in the config's `train.dtype`, on CPU in float32 (XLA widens bfloat16 there, which costs time and saves none).
    Raises UserError on an impossible sampler or length.
    """
    model_spec = spec.model(config.model)
    start, two_stacks = tokenizer.document_start, len(model_spec.stacks) > 1
    prompts = [[int(token) for token in tokenizer.encode(prompt)] for prompt in prompts]
    # A decoder beside an encoder begins its own text; what it is asked is the encoder's.
    rows = [[start] if two_stacks else [start, *prompt] for prompt in prompts]
    continuations = generate_tokens(
        model_spec,
        params,
        rows,
        inputs=[[*prompt, tokenizer.document_end] for prompt in prompts] if two_stacks else None,
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        seed=seed,
        stop_token=tokenizer.document_end if stop else None,
        vocab_size=tokenizer.vocab_size,
        dtype="float32" if jax.default_backend() == "cpu" else config.train.dtype,
    )
    return [_text_after(tokenizer, row[1:], tokens) for row, tokens in zip(rows, continuations, strict=True)]


def _text_after(tokenizer: Tokenizer, prompt: list[int], tokens: Sequence[int]) -> str:
    """The text of tokens that continue a prompt: alone, some tokenizers would drop the space that they begin with."""
    tokens = [int(token) for token in tokens]
    before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + tokens)
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(tokens)


def generate_tokens(
    model_spec: spec.Model,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    inputs: Sequence[Sequence[int]] | None = None,
    sampler: str | Sampler = "greedy",
    seed: int = 0,
    stop_token: int | None = None,
    vocab_size: int | None = None,
    dtype: str = "float32",
) -> list[list[int]]:
    """The tokens that follow each prompt: at most `max_new_tokens`, ending before `stop_token`.

    `params` are in the scanned or the unrolled layout. Tokens of `vocab_size` and above are never drawn. Prompts may differ in
    length; what a prompt's greedy continuation is does not depend on the others. `inputs` are read by the encoder beside the
    decoder, one row for each prompt. Raises UserError.
    """
    if isinstance(sampler, str):
        sampler = registry.create("sampler", sampler, "sampler")
    vocab_size = model_spec.vocab if vocab_size is None else vocab_size
    if "decoder" not in model_spec.stacks:
        raise UserError("generate: the model is an encoder; it has nothing to continue a text with")
    if (inputs is not None) != (len(model_spec.stacks) > 1) or (inputs is not None and len(inputs) != len(prompts)):
        raise UserError(
            f"inputs: a model that is {model_spec.structure} takes {'one row' if len(model_spec.stacks) > 1 else 'none'} a prompt"
        )
    _check(model_spec, prompts, max_new_tokens, vocab_size)
    if not prompts:
        return []
    model_spec, params = model_lib.nets(model_spec, meta.unbox(params))["model"]
    params = _scanned(params, model_spec)
    lengths_B = np.array([len(row) for row in prompts], np.int32)
    tokens_BT, positions_BT = _padded(prompts)
    given = {} if inputs is None else dict(zip(("inputs", "input_positions"), _padded(inputs), strict=True))
    room = _rounded(max_new_tokens)
    cache_length = tokens_BT.shape[1] + room

    logits_BV, cache = _prefill(model_spec, dtype, cache_length, params, tokens_BT, positions_BT, given)
    new_BN, counts_B, _ = _extend(
        model_spec,
        dtype,
        cache_length,
        room,
        sampler,
        params,
        cache,
        logits_BV[:, :vocab_size],
        lengths_B,
        max_new_tokens,
        -1 if stop_token is None else stop_token,
        jax.random.key(seed),
    )
    new_BN, counts_B = jax.device_get((new_BN, counts_B))
    return [row[:count].tolist() for row, count in zip(new_BN, counts_B, strict=True)]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens (B, T), and their positions, -1 for padding."""
    lengths_B = np.array([len(row) for row in rows], np.int32)
    tokens_BT = np.zeros((len(rows), _rounded(lengths_B.max())), np.int32)
    for i, row in enumerate(rows):
        tokens_BT[i, : len(row)] = row
    within_T = np.arange(tokens_BT.shape[1], dtype=np.int32)
    return tokens_BT, np.where(within_T < lengths_B[:, None], within_T, -1)


def _check(model_spec: spec.Model, prompts, max_new_tokens: int, vocab_size: int) -> None:
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens: must be at least 1, got {max_new_tokens}")
    if not 1 <= vocab_size <= model_spec.vocab:
        raise UserError(f"vocab_size: the tokenizer has {vocab_size} tokens, the model {model_spec.vocab}; at most that is allowed")
    limit = model_lib.position_limit(model_spec)
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise UserError(f"prompts[{i}]: needs at least one token")
        if not 0 <= min(prompt) <= max(prompt) < model_spec.vocab:
            raise UserError(
                f"prompts[{i}]: tokens {min(prompt)} to {max(prompt)} are not all below the model's vocab={model_spec.vocab}"
            )
        # The last new token is never read, so it needs no position.
        if limit is not None and len(prompt) + max_new_tokens - 1 > limit:
            left = max(0, limit + 1 - len(prompt))
            message = (
                f"max_new_tokens: {max_new_tokens} after a prompt of {len(prompt)} tokens, but the model knows {limit} positions"
            )
            raise UserError(f"{message}; at most {left} allowed")


def _scanned(params: Mapping[str, Any], model_spec: spec.Model) -> dict[str, Any]:
    loops = {name: layers for name, layers in model_spec.stacks.items() if not stack.is_stacked(params[name])}
    return {**params, **{name: stack.restack(params[name], layers) for name, layers in loops.items()}}


def _rounded(length: int) -> int:
    """The next length that programs are compiled for: four to an octave."""
    step = max(_SMALLEST_LENGTH, 2 ** (int(length) - 1).bit_length() // 4)
    return -(-int(length) // step) * step


def _cast(params: dict[str, Any], model_spec: spec.Model, dtype: str) -> dict[str, Any]:
    """What the model casts at every use (matrices and tables), cast once: decoding reads all of it at every step."""
    roles = (*MATRIX_ROLES, "embedding", "position")
    module = model_lib.build(model_spec)
    declared = jax.eval_shape(lambda: module.init(jax.random.key(0), **model_lib.blank(model_spec)))["params"]

    def one(declaration: Declared, value: jax.Array) -> jax.Array:
        return value.astype(dtype) if declaration.role in roles else value

    return jax.tree.map(one, declared, params, is_leaf=lambda leaf: isinstance(leaf, Declared))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _prefill(model_spec, dtype: str, cache_length: int, params, tokens_BT, positions_BT, given):
    """Logits (B, V) after each prompt, and the caches in the unrolled layout. `given`: what the encoder reads, if there is one."""
    model = model_lib.build(model_spec, dtype=dtype)
    if model_spec.prefixed:
        given = {**given, "prefix": positions_BT >= 0}  # all of a prompt
    options = {"method": "last_logits", "mutable": ["cache"], **given}
    logits_BV, state = model.apply({"params": params}, tokens_BT, positions_BT, cache_length, **options)
    cache = state["cache"]
    return logits_BV, {**cache, "decoder": stack.unstack(cache["decoder"], model_spec.decoder)}


# The cache is returned so that its buffers, which are donated, have an output to live in.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=(6,))
def _extend(model_spec, dtype, cache_length, room, sampler, params, cache, logits_BV, lengths_B, limit, stop_token, key):
    """New tokens (B, room), how many of them count in each row, and the caches.

    `limit` is the number of tokens wanted, at most `room`; a row ends early at `stop_token`, which is not counted.
    """
    model = model_lib.build(model_spec, dtype=dtype, scan=False)
    params = _cast(params, model_spec, dtype)
    variables = {"params": {**params, "decoder": stack.unstack(params["decoder"], model_spec.decoder)}}
    batch, vocab_size = logits_BV.shape

    def draw(i, logits_BV, new_BN, counts_B, done_B):
        token_B = sampler.sample(jax.random.fold_in(key, i), logits_BV)
        done_B = done_B | (token_B == stop_token)
        return token_B, new_BN.at[:, i].set(token_B), counts_B + ~done_B, done_B

    def unfinished(state):
        i, _, _, _, done_B, _ = state
        return (i < limit) & ~done_B.all()

    def step(state):
        i, token_B, new_BN, counts_B, done_B, cache = state
        # A row that has ended is padding from then on.
        positions_B = jnp.where(done_B, -1, lengths_B + i - 1)
        logits_BV, new = model.apply(
            {**variables, "cache": cache},
            token_B[:, None],
            positions_B[:, None],
            cache_length,
            method="last_logits",
            mutable=["cache"],
        )
        return i + 1, *draw(i, logits_BV[:, :vocab_size], new_BN, counts_B, done_B), new["cache"]

    nothing = jnp.zeros((batch, room), jnp.int32), jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool)
    first = 1, *draw(0, logits_BV, *nothing), cache
    _, _, new_BN, counts_B, _, cache = jax.lax.while_loop(unfinished, step, first)
    return new_BN, counts_B, cache
