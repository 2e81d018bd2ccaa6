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
    model_spec: spec.Model, prompts: Sequence[Sequence[int]], inputs: Sequence | None, max_new_tokens: int, vocab_size: int
) -> None:
    """Raises UserError when a model cannot continue these prompts, or cannot do so for so long."""
    if "decoder" not in model_spec.stacks:
        raise UserError("generate: the model is an encoder; it has nothing to continue a text with")
    if (inputs is not None) != (len(model_spec.stacks) > 1) or (inputs is not None and len(inputs) != len(prompts)):
        raise UserError(
            f"inputs: a model that is {model_spec.structure} takes {'one row' if len(model_spec.stacks) > 1 else 'none'} a prompt"
        )
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
