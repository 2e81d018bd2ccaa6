"""Batches of what an objective makes of the tokens. A batch is a pure function of (seed, index), so the state is a number.

A batch is a dict of arrays, a row an example: `tokens`, `targets`, `positions`, `segments`, int32 [B, T], and `weights`, float32
[B, T]. With an encoder also `inputs`, `input_positions`, `input_segments` [B, I]. Where the objective gives them: `prefix`, bool
[B, T]; `order` [B, T]; `detection`, float32 [B, T]; `input_targets` and `input_weights` [B, I]; `part` [B].
`taxonomy.objectives.objective.Example` says what they mean. Which there are, and their shapes, is the same for all batches. Padding
is 0 everywhere, in segments too. Where examples share rows, `segments` and `input_segments` keep them apart, and a row stands for
"an example" in what follows.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from taxonomy.data.pipeline import Batch, Own, ahead, chosen, shuffled
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import UserError
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, ints

OPEN_ROWS = 32


def specials(tokenizer: Tokenizer, vocab: int, **given) -> Specials:
    """What objectives must know of a tokenizer, for a model of `vocab` ids; `given` fields of `Specials` replace what is found.

    A token begins a word when its text begins with white space, and ends a sentence when its text, without white space behind
    it, ends with a full stop, an exclamation or a question mark, or when it is a line's end. A separator is an id in use.
    """
    # Behind another token, because some tokenizers leave out white space at the beginning of a text.
    before = tokenizer.encode("a")
    stem = len(tokenizer.decode(before))
    texts = [tokenizer.decode([*before, token])[stem:] for token in range(tokenizer.vocab_size)]
    found = dict(
        start=tokenizer.document_start,
        used=tokenizer.vocab_size,
        sentence_ends=tuple(i for i, text in enumerate(texts) if text.rstrip().endswith((".", "!", "?")) or text.endswith("\n")),
        word_starts=np.array([text[:1].isspace() for text in texts]),
        decode=tokenizer.decode,
        encode=tokenizer.encode,
    )
    found |= given
    if found.get("separator") is not None:
        found["used"] = max(found["used"], found["separator"] + 1)
    return Specials(vocab=vocab, **found)


class Examples:
    """Training examples in an order shuffled anew each epoch.

    Example i of the endless stream belongs to epoch i // len(examples), and its randomness comes from (seed, i). Windows hold the
    tokens that the objective needs, one after the other, so that an epoch uses every token; the last tokens of the split, too few
    to fill a window, are left out. Where the objective takes whole documents, an example is made of each; where they are short and
    share rows, which share one depends on the seed and is the same in all epochs.
    """

    def __init__(self, tokens: np.ndarray, objective: Objective, specials: Specials, lengths: Lengths, seed: int):
        """`tokens` [N] in memory or mapped.

        Raises UserError when the split is shorter than one window, or has no document where documents are taken, when the lengths
        are too short for the objective, and when the vocabulary has not enough free ids.
        """
        self._tokens_N, self._objective, self._specials, self._lengths = tokens, objective, specials, lengths
        self._seed = seed
        self._places = _places(tokens, objective, specials, lengths)
        self._rows = _rows(self._places, tokens, objective, specials, lengths, np.random.default_rng(seed))
        if len(self) < 1:
            size = objective.needs(lengths)
            wanted = "not a document" if objective.unit == "document" else f"fewer than one example's {size} (with {lengths})"
            raise UserError(f"data: the train split has {len(tokens)} tokens, {wanted}: use more text or shorter lengths")
        self._order = shuffled(len(self), seed)

    def __len__(self) -> int:
        """Examples in an epoch."""
        return len(self._rows)

    def batch(self, first: int, count: int, own: Own = range) -> Batch:
        """Examples first..first+count of the stream, [count, ...], or those of them that are this process's own."""
        return self.rows(chosen(first, count, own))

    def rows(self, indices: Iterable[int]) -> Batch:
        """These examples of the stream."""
        return arrange([self._example(i) for i in indices], self._objective, self._lengths)

    def _example(self, index: int) -> Example:
        generator = np.random.default_rng((self._seed, index))
        places = [self._places[i] for i in self._rows[self._order[index]]]
        texts = [self._tokens_N[begin:stop] for begin, stop in places]
        return side_by_side([self._objective.example(text, generator, self._specials, self._lengths) for text in texts])

    def stream(self, schedule: Iterable[tuple[int, int]], own: Own = range, prefetch: int = 2) -> Iterator[Batch]:
        """The batches of a schedule of (first, count), see `pipeline.ahead`."""
        return ahead(lambda first, count: self.batch(first, count, own), schedule, prefetch)


def evaluation_examples(
    tokens: np.ndarray, objective: Objective, specials: Specials, lengths: Lengths, batch_size: int, seed: int = 0
) -> Iterator[Batch]:
    """Batches [batch_size, ...] over `tokens` [N] in order, the last tokens and rows padded. Raises UserError as `Examples`."""
    places = _places(tokens, objective, specials, lengths, whole=False)
    if not len(places):
        raise UserError(f"data: the split to evaluate has {len(tokens)} tokens; at least 2 are needed to make an example")
    rows = _rows(places, tokens, objective, specials, lengths)
    for first in range(0, len(rows), batch_size):
        examples = []
        for row in range(first, min(first + batch_size, len(rows))):
            generator = np.random.default_rng((seed, row))
            texts = [tokens[begin:stop] for begin, stop in (places[i] for i in rows[row])]
            examples.append(side_by_side([objective.example(text, generator, specials, lengths) for text in texts]))
        yield arrange(examples, objective, lengths, rows=batch_size)


def beginning(tokens: np.ndarray, limit: float | None, objective: Objective, start: int) -> np.ndarray:
    """At most `limit` of the tokens [N]; where the objective takes whole documents, these, at least one."""
    if limit is None or limit >= len(tokens):
        return tokens
    if objective.unit == "document":
        starts = np.flatnonzero(np.asarray(tokens) == start)
        later = starts[starts > 0]
        whole = later[later <= limit]
        limit = whole[-1] if len(whole) else later[0] if len(later) else len(tokens)
    return tokens[: int(limit)]


def _places(tokens: np.ndarray, objective: Objective, specials: Specials, lengths: Lengths, whole: bool = True) -> "_Places":
    size = objective.needs(lengths)
    if extras := objective.extras(lengths):
        specials.extra(extras - 1)
    if objective.unit == "document":
        edges = np.append(np.flatnonzero(np.asarray(tokens) == specials.start), len(tokens))
        bounds = np.stack([edges[:-1], edges[1:]], axis=1)
        # A document of nothing but its start makes no example.
        return bounds[bounds[:, 1] - bounds[:, 0] > 1]
    return _Windows(len(tokens), size, size - objective.overlap, whole)


def _rows(
    places: "_Places",
    tokens: np.ndarray,
    objective: Objective,
    specials: Specials,
    lengths: Lengths,
    generator: np.random.Generator | None = None,
) -> Sequence[Sequence[int]]:
    """Which places share each row: one alone, or those that fit, taken in an order of the generator's (or their own).

    A text goes to the first row that has room among a few that are open; when none has, the one opened first is closed.
    """
    sizes_D2 = objective.sizes(tokens, places, specials, lengths) if objective.unit == "document" else None
    if sizes_D2 is None:
        return _Alone(len(places))
    order_D = np.arange(len(places)) if generator is None else generator.permutation(len(places))
    room_R2 = np.zeros((OPEN_ROWS, 2), np.int64)
    rows: list[list[int]] = []
    opened = [0] * OPEN_ROWS  # which row is open at each of the places
    for document, size_2 in zip(order_D.tolist(), sizes_D2[order_D], strict=True):
        fits_R = (room_R2 >= size_2).all(axis=1)
        place = int(fits_R.argmax())
        if not fits_R[place]:
            place = len(rows) % OPEN_ROWS
            room_R2[place], opened[place] = (lengths.inputs or 0, lengths.context), len(rows)
            rows.append([])
        rows[opened[place]].append(document)
        room_R2[place] -= size_2
    return rows


class _Alone(Sequence):
    """Every place in a row of its own."""

    def __init__(self, places: int):
        self._places = places

    def __len__(self) -> int:
        return self._places

    def __getitem__(self, row):
        return (row,)


class _Windows(Sequence):
    """Begin and end of windows of `size` tokens, `stride` apart; unless `whole`, one that has only 2 is a window too."""

    def __init__(self, tokens: int, size: int, stride: int, whole: bool):
        self._tokens, self._size, self._stride, self._least = tokens, size, stride, size if whole else 2

    def __len__(self) -> int:
        return max(0, (self._tokens - self._least) // self._stride + 1)

    def __getitem__(self, window):
        if isinstance(window, slice):
            return [self[i] for i in range(*window.indices(len(self)))]
        begin = window * self._stride
        return begin, min(begin + self._size, self._tokens)


_Places = np.ndarray | _Windows


def side_by_side(examples: Sequence[Example]) -> Example:
    """Several examples as one, in which segments on both sides keep them apart; one alone is itself."""
    if len(examples) == 1:
        return examples[0]
    fields = [_fields(example) for example in examples]
    for number, example in enumerate(fields, start=1):
        for name in ("segments", "input_segments"):
            if name in example:
                example[name] = np.full_like(example[name], number)
    joined = {name: np.concatenate([example[name] for example in fields]) for name in fields[0]}
    return Example(**{name: ints(array) if array.dtype.kind == "i" else array for name, array in joined.items()})


def arrange(examples: Sequence[Example], objective: Objective, lengths: Lengths, rows: int | None = None) -> Batch:
    """Examples as the rows of a batch, padded to the lengths, and with empty rows up to `rows`."""
    rows = len(examples) if rows is None else rows
    batch = {name: np.zeros((rows, lengths.context), np.int32) for name in ("tokens", "targets", "positions", "segments")}
    batch["weights"] = np.zeros((rows, lengths.context), np.float32)
    if objective.coordinates > 1:
        batch["positions"] = np.zeros((rows, lengths.context, objective.coordinates), np.int32)
    if lengths.inputs is not None:
        batch |= {name: np.zeros((rows, lengths.inputs), np.int32) for name in ("inputs", "input_positions", "input_segments")}
        if "input_targets" in objective.gives:
            batch["input_targets"] = np.zeros((rows, lengths.inputs), np.int32)
            batch["input_weights"] = np.zeros((rows, lengths.inputs), np.float32)
    elif "prefix" in objective.gives:
        batch["prefix"] = np.zeros((rows, lengths.context), bool)
    if "order" in objective.gives:
        batch["order"] = np.zeros((rows, lengths.context), np.int32)
    if "detection" in objective.gives:
        batch["detection"] = np.zeros((rows, lengths.context), np.float32)
    if "part" in objective.gives:
        batch["part"] = np.zeros(rows, np.int32)
    for row, example in enumerate(examples):
        for name, value in _fields(example).items():
            _write(batch[name], row, value, name)
    return batch


def _fields(example: Example) -> Batch:
    """What an example says, by the names of a batch, defaults filled in."""
    fields = {name: value for name, value in vars(example).items() if value is not None}
    place_T = np.arange(len(example.tokens))
    defaults = {"positions": place_T, "segments": np.ones_like(place_T)}
    if example.inputs is not None:
        place_I = np.arange(len(example.inputs))
        defaults |= {"input_positions": place_I, "input_segments": np.ones_like(place_I)}
    return defaults | fields


def _write(array: np.ndarray, row: int, value: np.ndarray | int, name: str) -> None:
    if array.ndim == 1:
        array[row] = value
        return
    if len(value) > array.shape[1]:
        raise ValueError(f"{name}: an example has {len(value)}, a row has room for {array.shape[1]}")
    if array.ndim == 3 and value.ndim == 1:
        # A position of one number beside those of two.
        array[row, : len(value), 0] = value
    else:
        array[row, : len(value)] = value
