"""Text to tokens on disk, once: one flat array a split, mapped into memory when read.

    DIRECTORY/<key>/tokenizer/                 what `Tokenizer.save` writes
    DIRECTORY/<key>/<split>/tokens.bin         [document_start, ids...] of every document, uint16 or uint32, little-endian;
                                               of a pair [document_start, ids..., separator, ids...]
    DIRECTORY/<key>/<split>/text.bin           the UTF-8 bytes of the documents (held-out splits only)
    DIRECTORY/<key>/<split>/counts.json        documents, pairs, tokens, bytes, dtype, sha256

The separator is the first id that the tokenizer does not use, so no text can contain it.
The key is a hash of the source and the tokenizer's expression, so what was prepared before is found and not done again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taxonomy.data.sources import Pair
from taxonomy.data.storage import SPLITS, Split, build_once, digest
from taxonomy.data.tokenizers import Tokenizer, load_tokenizer
from taxonomy.errors import UserError

FORMAT = 1
BATCH_CHARACTERS = 2**20
REPORT_SECONDS = 1.5


class Prepared:
    """Tokenised splits of a corpus, on disk."""

    def __init__(self, directory: Path, splits: Sequence[Split]):
        self.directory, self.splits = directory, tuple(splits)
        self.tokenizer: Tokenizer = load_tokenizer(directory / "tokenizer")
        self._counts = {split: _read_counts(directory / split) for split in splits}

    labels: tuple[str, ...] = ()
    shares = np.ones(1)

    @property
    def parts(self) -> tuple["Prepared", ...]:
        """This corpus alone; those of a mixture have several, with labels and shares."""
        return (self,)

    def tokens(self, split: Split) -> np.ndarray:
        """The tokens of a split, uint16 or uint32 [N], each document begun by `document_start`; mapped, read-only."""
        counts = self._of(split)
        if not counts["tokens"]:
            return np.zeros(0, counts["dtype"])
        return np.memmap(self.directory / split / "tokens.bin", counts["dtype"], mode="r")

    def documents(self, split: Split) -> int:
        """How many documents a split has."""
        return self._of(split)["documents"]

    def bytes(self, split: Split) -> int:
        """How many bytes of UTF-8 the documents of a split have."""
        return self._of(split)["bytes"]

    def text_bytes(self, split: Split) -> "bytes":
        """The documents of a held-out split as UTF-8, one after the other.

        Raises ValueError for train, which is not kept as text.
        """
        self._of(split)
        if split == "train":
            raise ValueError("the text of the train split is not kept; only that of held-out splits is")
        return (self.directory / split / "text.bin").read_bytes()

    @property
    def separator(self) -> int | None:
        """The id between the halves of a pair; None when no split has pairs."""
        return self.tokenizer.vocab_size if any(counts.get("pairs") for counts in self._counts.values()) else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the tokenizer and of the tokens of all splits: equal on machines that prepared the same data."""
        return digest(self.tokenizer.fingerprint, [(split, self._counts[split]["sha256"]) for split in sorted(self.splits)])

    def _of(self, split: Split) -> dict[str, Any]:
        if split not in self._counts:
            raise ValueError(f"split '{split}' was not prepared (prepared: {', '.join(self.splits)})")
        return self._counts[split]


def prepare(
    source: Any,
    tokenizer_expression: Any,
    directory: Path | str,
    *,
    splits: Sequence[Split] = ("train", "validation"),
    report: Callable[[str], None] = print,
) -> Prepared:
    """Learns or loads the tokenizer, tokenises the splits of `source`, and returns them; instant when done before.

    `report` gets a line every couple of seconds while there is work, from a background thread. Raises UserError as the
    source and the tokenizer do, and when the train split has no document.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or not splits:
        raise ValueError(f"splits={tuple(splits)}: allowed are {', '.join(SPLITS)}")
    tokenizer = learned(tokenizer_expression, source.fingerprint(), lambda: train_texts(source), directory, report)
    directory = _place(directory, source.fingerprint(), tokenizer_expression)
    for split in splits:
        build_once(directory / split, lambda partial, split=split: _tokenise(source, tokenizer, split, partial, report))
    return Prepared(directory, splits)


def prepared_before(
    source: Any, tokenizer_expression: Any, directory: Path | str, splits: Sequence[Split] = ("train", "validation")
) -> Prepared | None:
    """What `prepare` would return at once; None where there would be work to do."""
    place = _place(directory, source.fingerprint(), tokenizer_expression)
    return Prepared(place, splits) if all((place / split).is_dir() for split in splits) else None


def _place(directory: Path | str, source: str, recipe: Any) -> Path:
    return Path(directory).expanduser() / digest(FORMAT, source, recipe.fingerprint())


def learned(
    recipe: Any, source: str, texts: Callable[[], Iterator[str]], directory: Path | str, report: Callable[[str], None]
) -> Tokenizer:
    """The tokenizer a recipe learns from texts, whose source has the fingerprint `source`; instant when done before."""

    def build(partial: Path) -> None:
        with _reporting(report, lambda: "learning the tokenizer"):
            recipe.train(texts()).save(partial)

    return load_tokenizer(build_once(_place(directory, source, recipe) / "tokenizer", build))


@dataclasses.dataclass(frozen=True)
class Existing:
    """A tokenizer that is already there, where one is expected to be learned."""

    tokenizer: Tokenizer

    def train(self, documents: Any) -> Tokenizer:
        return self.tokenizer

    def sample_bytes(self) -> int:
        return 0

    def fingerprint(self) -> str:
        return self.tokenizer.fingerprint


def _tokenise(source: Any, tokenizer: Tokenizer, split: Split, directory: Path, report: Callable[[str], None]) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocab_size < 2**16 else "<u4")
    counts: dict[str, Any] = {"documents": 0, "pairs": 0, "tokens": 0, "bytes": 0}
    content = hashlib.sha256()
    begun = time.monotonic()

    def progress() -> str:
        seconds = max(time.monotonic() - begun, 1e-9)
        megabytes = counts["bytes"] / 1e6
        return (
            f"tokenising {split}: {counts['documents']:,} documents, {megabytes:.1f} MB, {counts['tokens']:,} tokens "
            f"({megabytes / seconds:.1f} MB/s)"
        )

    with contextlib.ExitStack() as files:
        files.enter_context(_reporting(report, progress))
        tokens_file = files.enter_context(open(directory / "tokens.bin", "wb"))
        text_file = None if split == "train" else files.enter_context(open(directory / "text.bin", "wb"))
        for documents in _batches(source.documents(split)):
            texts = [text for document in documents for text in _texts(document)]
            # What stands before each text: what begins a document, or what separates the halves of one.
            marks = [[tokenizer.document_start], [tokenizer.vocab_size]]
            before = (np.array(mark) for document in documents for mark in marks[: len(_texts(document))])
            pieces = [piece for mark_and_ids in zip(before, tokenizer.encode_batch(texts), strict=True) for piece in mark_and_ids]
            tokens = np.concatenate(pieces).astype(dtype)
            tokens_file.write(tokens.tobytes())
            content.update(tokens.tobytes())
            encoded = [text.encode() for text in texts]
            if text_file:
                text_file.writelines(encoded)
            counts["documents"] += len(documents)
            counts["pairs"] += len(texts) - len(documents)
            counts["tokens"] += len(tokens)
            counts["bytes"] += sum(map(len, encoded))
    if split == "train" and not counts["documents"]:
        raise UserError("data.source: the train split has no document")
    counts |= {"dtype": dtype.str, "sha256": content.hexdigest()}
    (directory / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    report(progress())


def train_texts(source: Any) -> Iterator[str]:
    """The texts of a source's train split, two of a pair."""
    return (text for document in source.documents("train") for text in _texts(document))


def _texts(document: str | Pair) -> tuple[str, ...]:
    return (document,) if isinstance(document, str) else tuple(document)


def _batches(documents: Iterator[str | Pair]) -> Iterator[list[str | Pair]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, _texts(document)))
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_counts(directory: Path) -> dict[str, Any]:
    try:
        counts = json.loads((directory / "counts.json").read_text())
        size = (directory / "tokens.bin").stat().st_size
        expected = counts["tokens"] * np.dtype(counts["dtype"]).itemsize
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"data: {directory} is damaged ({error}): delete it, and it is prepared again") from error
    if size != expected:
        raise UserError(
            f"data: {directory}/tokens.bin has {size} bytes instead of {expected}: delete {directory}, and it is prepared again"
        )
    return counts


@contextlib.contextmanager
def _reporting(report: Callable[[str], None], message: Callable[[], str]) -> Iterator[None]:
    """Reports `message()` every couple of seconds while the body runs."""
    done = threading.Event()
    begun = time.monotonic()

    def run() -> None:
        while not done.wait(REPORT_SECONDS):
            report(f"{message()}, {time.monotonic() - begun:.0f} s")

    thread = threading.Thread(target=run, name="report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
