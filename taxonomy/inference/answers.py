"""Answers to held-out pairs: what a model writes when it is given their inputs, beside what was wanted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.inference import steps
from taxonomy.inference.decode import Tokenizer, generate_tokens
from taxonomy.objectives.objective import Lengths

BATCH = 32  # pairs


class Answer(NamedTuple):
    """Three texts."""

    input: str
    said: str
    target: str


class Row(NamedTuple):
    """Tokens: what the decoder, or the only stack, begins with, and what the encoder reads where there is one."""

    begun: list[int]
    inputs: list[int] | None


def answer(plan: Any, params: Mapping[str, Any], prepared: Any, count: int, split: str = "validation") -> list[Answer]:
    """Greedy answers to `count` held-out pairs, spread evenly over the split; all of them when it has no more.

    An answer has at most as many tokens as the model was trained to write; an input too long for its place loses its end, as in
    training. Raises UserError when the split has no pairs.
    """
    tokenizer, lengths = prepared.tokenizer, plan.lengths
    pairs = _pairs(np.asarray(prepared.tokens(split)), tokenizer.document_start, prepared.separator)
    if not pairs:
        raise UserError(f"data.source: the {split} split of {plan.config.data.source} has no pairs to answer")
    pairs = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, max(1, count)).round().astype(int))]
    # Half of the only stack's place is the answer's.
    room = lengths.context // 2 if lengths.inputs is None else lengths.context
    rows = [question(lengths, given, tokenizer, prepared.separator, room) for given, _ in pairs]
    said = written(plan, params, rows, tokenizer, room)
    return [
        Answer(tokenizer.decode(given), tokenizer.decode(said[i]), tokenizer.decode(wanted))
        for i, (given, wanted) in enumerate(pairs)
    ]


def question(
    lengths: Lengths, given: Sequence[int], tokenizer: Tokenizer, separator: int | None, room: int, told: Sequence[int] = ()
) -> Row:
    """The row of a pair's input, with space for `room` new tokens, or, without a separator, of a text that goes on.

    `told` are tokens before it. What has no place leaves at the input's end, as in training, or at the beginning of the text.
    """
    if lengths.inputs is not None:
        inputs = [*told, *given[: lengths.inputs - 1 - len(told)], tokenizer.document_end]
        return Row([tokenizer.document_start], inputs)
    most = max(0, lengths.context - room - 2 - len(told))
    given = given[len(given) - min(most, len(given)) :] if separator is None else [*given[:most], separator]
    return Row([tokenizer.document_start, *told, *given], None)


def written(
    plan: Any,
    params: Mapping[str, Any],
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    room: int,
    sampler: str = "greedy",
    seed: int | jax.Array = 0,
) -> list[list[int]]:
    """At most `room` new tokens for each row. A seed, or a key, gives every batch a key of its own."""
    key = steps.key(seed)
    said: dict[int, list[int]] = {}
    # Inputs of like lengths together: rows of a batch are padded to the longest.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].inputs or rows[i].begun))
    for number, first in enumerate(range(0, len(order), BATCH)):
        batch = order[first : first + BATCH]
        full = batch + [batch[-1]] * (min(BATCH, len(order)) - len(batch))  # one shape for all batches
        new = generate_tokens(
            plan.model,
            params,
            [rows[i].begun for i in full],
            inputs=None if plan.lengths.inputs is None else [rows[i].inputs for i in full],
            max_new_tokens=room,
            sampler=sampler,
            seed=jax.random.fold_in(key, number),
            stop_token=tokenizer.document_end,
            vocab_size=tokenizer.vocab_size,
        )
        said |= dict(zip(batch, new, strict=False))
    return [said[i] for i in range(len(rows))]


def scores(metrics: Sequence[str], answers: Sequence[Answer]) -> dict[str, float]:
    """The value of each metric, by its sentence; none for no answers. Raises UserError for an unknown metric."""
    said, wanted = [one.said for one in answers], [one.target for one in answers]
    found = {sentence: registry.create("metric", sentence, "config.evaluation.metrics") for sentence in metrics}
    return {sentence: metric(said, wanted) for sentence, metric in found.items() if answers}


def _pairs(tokens_N: np.ndarray, start: int, separator: int | None) -> list[tuple[list[int], list[int]]]:
    """The halves of the documents that have two."""
    found = []
    for document in np.split(tokens_N, np.flatnonzero(tokens_N == start))[1:]:
        cut = np.flatnonzero(document == separator)
        if len(cut):
            found.append((document[1 : cut[0]].tolist(), document[cut[0] + 1 :].tolist()))
    return found
