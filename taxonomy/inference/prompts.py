"""What rows to be continued have to fulfil, and how rows of different lengths become arrays."""

from collections.abc import Sequence

import numpy as np

from taxonomy import model as model_lib
from taxonomy import spec
from taxonomy.errors import UserError

_SMALLEST_LENGTH = 16


def rounded(length: int) -> int:
    """The next length that programs are compiled for: four to an octave."""
    step = max(_SMALLEST_LENGTH, 2 ** (int(length) - 1).bit_length() // 4)
    return -(-int(length) // step) * step


def padded(rows: Sequence[Sequence[int]], multiple: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens (B, T), and their positions, -1 for padding. T is below `multiple` or one of its multiples."""
    lengths_B = np.array([len(row) for row in rows], np.int32)
    time = rounded(lengths_B.max())
    if multiple is not None and time > multiple:
        time = -(-int(lengths_B.max()) // multiple) * multiple
    tokens_BT = np.zeros((len(rows), time), np.int32)
    for i, row in enumerate(rows):
        tokens_BT[i, : len(row)] = row
    within_T = np.arange(time, dtype=np.int32)
    return tokens_BT, np.where(within_T < lengths_B[:, None], within_T, -1)


def check(
    model_spec: spec.Model,
    prompts: Sequence[Sequence[int]],
    inputs: Sequence[Sequence[int]] | None,
    max_new_tokens: int,
    vocab_size: int,
    unconditional: Sequence[Sequence[int]] | None = None,
) -> None:
    """Raises UserError when a model cannot continue these prompts, or cannot do so for so long.

    `inputs` are read by an encoder; `unconditional` stand for them, or without an encoder for the prompts.
    """
    if "decoder" not in model_spec.stacks:
        raise UserError("generate: the model is an encoder; it has nothing to continue a text with")
    beside = len(model_spec.stacks) > 1
    if (inputs is not None) != beside or (inputs is not None and len(inputs) != len(prompts)):
        raise UserError(f"inputs: a model that is {model_spec.structure} takes {'one row' if beside else 'none'} a prompt")
    if unconditional is not None and len(unconditional) != len(prompts):
        raise UserError(f"unconditional: needs one row a prompt, {len(prompts)}, got {len(unconditional)}")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens: must be at least 1, got {max_new_tokens}")
    if not 1 <= vocab_size <= model_spec.vocab:
        raise UserError(f"vocab_size: the tokenizer has {vocab_size} tokens, the model {model_spec.vocab}; at most that is allowed")
    inputs, unconditional = ([] if rows is None else rows for rows in (inputs, unconditional))
    for name, rows in (("prompts", prompts), ("inputs", inputs), ("unconditional", unconditional)):
        _check_tokens(name, rows, model_spec.vocab)
    limit = model_lib.position_limit(model_spec)
    if limit is None:
        return
    for name, rows in (("inputs", inputs), ("unconditional", unconditional if beside else [])):
        for i, row in enumerate(rows):
            if len(row) > limit:
                raise UserError(f"{name}[{i}]: has {len(row)} tokens, but the model knows {limit} positions")
    for row in [*prompts, *([] if beside else unconditional)]:
        # The last new token is never read, so it needs no position.
        if len(row) + max_new_tokens - 1 > limit:
            left = max(0, limit + 1 - len(row))
            message = f"max_new_tokens: {max_new_tokens} after a prompt of {len(row)} tokens, but the model knows {limit} positions"
            raise UserError(f"{message}; at most {left} allowed")


def _check_tokens(name: str, rows: Sequence[Sequence[int]], vocab: int) -> None:
    """Raises UserError for a row without tokens or with one that the model does not know."""
    for i, row in enumerate(rows):
        if len(row) == 0:
            raise UserError(f"{name}[{i}]: needs at least one token")
        if not 0 <= min(row) <= max(row) < vocab:
            raise UserError(f"{name}[{i}]: tokens {min(row)} to {max(row)} are not all below the model's vocab={vocab}")
