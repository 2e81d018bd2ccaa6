"""Answers to held-out pairs: what a model writes when it is given their inputs, beside what was wanted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.inference.decode import generate_tokens

BATCH = 32  # pairs


class Answer(NamedTuple):
    """Three texts."""

    input: str
    said: str
    target: str


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
    start, end = tokenizer.document_start, tokenizer.document_end
    options = {"stop_token": end, "vocab_size": tokenizer.vocab_size}
    if lengths.inputs is None:
        # Half of the place is the answer's.
        room = lengths.context // 2
        rows = [[start, *given[: lengths.context - room - 2], prepared.separator] for given, _ in pairs]
        read = rows
    else:
        room = lengths.context
        rows = [[start]] * len(pairs)
        read = [[*given[: lengths.inputs - 1], end] for given, _ in pairs]
    said: dict[int, list[int]] = {}
    # Inputs of like lengths together: rows of a batch are padded to the longest.
    order = sorted(range(len(pairs)), key=lambda i: len(read[i]))
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        full = batch + [batch[-1]] * (min(BATCH, len(order)) - len(batch))  # one shape for all batches
        inputs = None if lengths.inputs is None else [read[i] for i in full]
        prompts = [rows[i] for i in full]
        written = generate_tokens(plan.model, params, prompts, inputs=inputs, max_new_tokens=room, **options)
        said |= dict(zip(batch, written, strict=False))
    return [
        Answer(tokenizer.decode(given), tokenizer.decode(said[i]), tokenizer.decode(wanted))
        for i, (given, wanted) in enumerate(pairs)
    ]


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
