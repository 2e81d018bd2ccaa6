"""Sources of text: the standard library, files, JSON lines. Each yields documents by split and knows its fingerprint.

A document is a string with at least one character, empty ones are left out; or it is a `Pair` of texts. Documents go to splits by
a hash of what names them, so a corpus may grow without moving what was held out.
"""

import dataclasses
import functools
import glob as globbing
import hashlib
import json
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from taxonomy.data import tfds_source  # noqa: F401 - registers the source "tfds"
from taxonomy.data.storage import SPLITS, Split, build_once, cache_directory, digest, split_of, unit_interval
from taxonomy.errors import UserError
from taxonomy.registry import component


class Pair(NamedTuple):
    """A document of two texts: what is given, and what is wanted."""

    input: str
    target: str


class Source(Protocol):
    """What every source offers."""

    def documents(self, split: Split) -> Iterator[str | Pair]:
        """The documents of a split, in a fixed order."""

    def fingerprint(self) -> str:
        """A hash that changes when the documents may have changed."""


def check_fractions(validation: float, test: float) -> None:
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(f"validation={validation} and test={test} are fractions of the documents, of sum below 1")


@component("stdlib", kind="source", paper="")
@dataclasses.dataclass(frozen=True)
class StandardLibrarySource:
    """The text of Python's standard library on this machine: about 11 MB of code and prose, no download."""

    def documents(self, split: Split) -> Iterator[str]:
        for _, text in self.files(split):
            yield text

    def files(self, split: Split) -> Iterator[tuple[str, str]]:
        """The (relative path, text) pairs of a split, sorted by path."""
        from taxonomy.data import stdlib_builder

        directory = cache_directory() / f"stdlib-{platform.python_version()}-{self.fingerprint()}"
        build_once(directory, stdlib_builder.write)
        for example in stdlib_builder.read(directory, split):
            yield example["path"].decode(), example["text"].decode()

    def fingerprint(self) -> str:
        return _standard_library_fingerprint(sysconfig.get_path("stdlib"))


@functools.cache
def _standard_library_fingerprint(root: str) -> str:
    files = [(path, hashlib.sha256(text.encode()).hexdigest()) for path, text in standard_library_files(root)]
    return digest("stdlib", platform.python_version(), files)


def standard_library_splits() -> dict[str, list[tuple[str, str]]]:
    """The (relative path, text) pairs of each split: 90%, 5% and 5% of the files, by hash of the path in CPython's repository."""
    splits: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for path, text in standard_library_files(sysconfig.get_path("stdlib")):
        splits[split_of(f"Lib/{path}", validation=0.05, test=0.05)].append((path, text))
    return splits


def standard_library_files(root: str) -> list[tuple[str, str]]:
    """The (relative path, text) pairs of the library's modules, sorted, each text once, without tests and packages."""
    # Nor the generated tables of encodings: near-copies of each other, they would stand on both sides of the split.
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}
    texts: dict[str, str] = {}
    paths = []
    for folder, folders, files in os.walk(root):
        # config-* and _sysconfigdata_* record how this Python was compiled.
        folders[:] = [name for name in folders if name not in skipped and not name.startswith("config-")]
        names = [name for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata_")]
        paths += [Path(folder, name).relative_to(root).as_posix() for name in names]
    for path in sorted(paths):
        try:
            text = Path(root, path).read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text:
            texts.setdefault(text, path)
    return [(path, text) for text, path in texts.items()]


@component("text", kind="source", paper="")
@dataclasses.dataclass(frozen=True)
class TextSource:
    """Text files in UTF-8, one document a file; a single file is cut at paragraphs into one document a split.

    Files are split by a hash of their path relative to their common folder; train and validation (and test, when asked for)
    get at least one file each when there are enough. Of a single file the first part is train, then come validation and
    test, cut at the end of the paragraph, or else of the line, nearest to the fractions of its bytes.
    """

    glob: str
    validation: float = 0.05
    test: float = 0.0

    def check(self) -> None:
        check_fractions(self.validation, self.test)

    def documents(self, split: Split) -> Iterator[str]:
        paths = _matches("text", self.glob)
        if len(paths) == 1:
            yield from filter(None, [cut_text(_read(paths[0]), self.validation, self.test)[split]])
            return
        for name in assign([name for name, _ in _relative(paths)], self.validation, self.test)[split]:
            yield from filter(None, [_read(Path(_common_folder(paths), name))])

    def fingerprint(self) -> str:
        return digest("text", self.validation, self.test, stamps("text", self.glob))


def assign(names: list[str], validation: float, test: float) -> dict[Split, list[str]]:
    """Names by split, by hash. A wanted split that got none takes the name of lowest hash from the largest split."""
    groups: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        groups[split_of(name, validation, test)].append(name)
    wanted = ["train"] + ["validation"] * (validation > 0) + ["test"] * (test > 0)
    for split in wanted:
        largest = max(SPLITS, key=lambda other: len(groups[other]))
        if not groups[split] and len(groups[largest]) > 1:
            chosen = min(groups[largest], key=unit_interval)
            groups[largest].remove(chosen)
            groups[split].append(chosen)
    return groups


def cut_text(text: str, validation: float, test: float) -> dict[Split, str]:
    """One text cut in three: train first, then validation, then test, by fractions of its UTF-8 bytes."""
    data = text.encode()
    smallest = min(part for part in (1 - validation - test, validation, test) if part > 0)
    reach = max(1, int(len(data) * smallest / 4))
    first = _boundary(data, round(len(data) * (1 - validation - test)), reach)
    second = _boundary(data, round(len(data) * (1 - test)), reach)
    return {"train": data[:first].decode(), "validation": data[first:second].decode(), "test": data[second:].decode()}


def _boundary(data: bytes, target: int, reach: int) -> int:
    """The end of a paragraph, or else of a line, nearest to `target` within `reach` bytes; or else of a character."""
    if target in (0, len(data)):
        return target
    low, high = max(1, target - reach), min(len(data) - 1, target + reach)
    for end in (b"\n\n", b"\n"):
        found = (data.rfind(end, low - len(end), target), data.find(end, target - len(end), high))
        places = [place + len(end) for place in found if place >= 0 and low <= place + len(end) <= high]
        if places:
            return min(places, key=lambda place: abs(place - target))
    while target < len(data) and data[target] & 0xC0 == 0x80:
        target += 1
    return target


@component("jsonl", kind="source", paper="")
@dataclasses.dataclass(frozen=True)
class JsonLinesSource:
    """JSON lines: one document a line, in the text field named; split by a hash of the text."""

    glob: str
    field: str = "text"
    validation: float = 0.05
    test: float = 0.0

    def check(self) -> None:
        check_fractions(self.validation, self.test)

    def documents(self, split: Split) -> Iterator[str]:
        for place, record in records(f"jsonl takes an object with the field '{self.field}'", "jsonl", self.glob):
            text = self._text(record, place)
            if text and split_of(text, self.validation, self.test) == split:
                yield text

    def _text(self, record: dict[str, Any], place: str) -> str:
        if self.field not in record:
            raise UserError(f"data.source: {place}: no field '{self.field}' (the line has: {', '.join(sorted(record)) or 'none'})")
        text = record[self.field]
        if not isinstance(text, str):
            raise UserError(f"data.source: {place}: field '{self.field}' is {type(text).__name__}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"data.source: {place}: field '{self.field}' is not valid Unicode: {error}") from error
        return text

    def fingerprint(self) -> str:
        return digest("jsonl", self.field, self.validation, self.test, stamps("jsonl", self.glob))


def records(takes: str, name: str, glob: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of files of JSON lines, each with its place for messages. Raises UserError; `takes` says what lines should be."""
    for path in _matches(name, glob):
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                place = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise UserError(f"data.source: {place}: not a line of JSON: {error}") from error
                if not isinstance(record, dict):
                    raise UserError(f"data.source: {place}: a JSON {type(record).__name__}; {takes}")
                yield place, record


def stamps(name: str, glob: str) -> list[tuple[str, int, int]]:
    """What tells that files are still the same without reading them: relative name, size, time of the last change."""
    stats = [(name, path.stat()) for name, path in _relative(_matches(name, glob))]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _matches(name: str, pattern: str) -> list[Path]:
    paths = sorted(Path(path) for path in globbing.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))
    if not paths:
        raise UserError(f"data.source: {name}(glob={pattern!r}) matches no file (working directory: {os.getcwd()})")
    return paths


def _common_folder(paths: list[Path]) -> str:
    return os.path.commonpath([path.absolute().parent for path in paths])


def _relative(paths: list[Path]) -> list[tuple[str, Path]]:
    root = _common_folder(paths)
    return [(Path(os.path.relpath(path.absolute(), root)).as_posix(), path) for path in paths]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"data.source: {path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UserError(f"data.source: {path}: {error.strerror}") from error
