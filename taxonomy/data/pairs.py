"""Sources of pairs: what is given and what is wanted, written as text (Raffel et al. 2019, arXiv:1910.10683, section 2.4)."""

import dataclasses
import functools
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from taxonomy.data.sources import Pair, check_fractions, records, stamps
from taxonomy.data.storage import Split, digest, split_of
from taxonomy.data.tfds_source import Reader
from taxonomy.errors import UserError
from taxonomy.registry import component

_FIELD = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


@dataclasses.dataclass(frozen=True)
class Form:
    """Writes a record as a pair, by two texts with the names of fields in braces, such as "premise: {premise}".

    `{answers.text.0}` is a field of a field and the first of a list; {{ and }} are braces. A whole number of the target stands for
    one of `labels` when there are any. A number with a fraction becomes the nearest multiple of `step`.
    """

    input: str
    target: str
    labels: tuple[str, ...] = ()
    step: float | None = None

    def check(self) -> None:
        """Raises ValueError when the texts cannot be read."""
        for name in ("input", "target"):
            try:
                pieces = list(string.Formatter().parse(getattr(self, name)))
            except ValueError as error:
                raise ValueError(f"{name}={getattr(self, name)!r}: {error}") from None
            for _, path, specification, conversion in pieces:
                if path is not None and (specification or conversion or not _FIELD.fullmatch(path)):
                    raise ValueError(f"{name}={getattr(self, name)!r}: in braces stands the name of a field, such as {{premise}}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step={self.step} must be above 0")

    def __call__(self, record: Mapping[str, Any], place: str) -> Pair:
        """The pair of a record. Raises UserError, naming the `place`, when a field is missing or stands for no label."""
        given = self._filled(self.input, record, place, ())
        return Pair(given, self._filled(self.target, record, place, self.labels))

    def _filled(self, text: str, record: Mapping[str, Any], place: str, labels: tuple[str, ...]) -> str:
        written = []
        for literal, path, _, _ in string.Formatter().parse(text):
            written.append(literal)
            if path is not None:
                written.append(self._written(_find(record, path, place), labels, f"{place}: {path}"))
        return "".join(written)

    def _written(self, value: Any, labels: tuple[str, ...], place: str) -> str:
        value = value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
        if isinstance(value, (bytes, str)):
            try:
                return value.decode() if isinstance(value, bytes) else value.encode().decode()
            except UnicodeError as error:
                raise UserError(f"data.source: {place} is not valid Unicode: {error}") from error
        if isinstance(value, int) and labels:
            if not 0 <= value < len(labels):
                raise UserError(f"data.source: {place}={value} is none of the {len(labels)} labels (some test splits hide them)")
            return labels[value]
        if isinstance(value, float) and self.step:
            return f"{round(value / self.step) * self.step:.{len(str(self.step).partition('.')[2])}f}"
        if isinstance(value, (bool, int, float)):
            return str(value)
        raise UserError(f"data.source: {place} is {type(value).__name__}, neither a text nor a number")


def _find(record: Any, path: str, place: str) -> Any:
    for name in path.split("."):
        try:
            record = record[name] if isinstance(record, Mapping) else record[int(name)]
        except (KeyError, IndexError, TypeError, ValueError):
            has = f" (there are: {', '.join(sorted(record)) or 'none'})" if isinstance(record, Mapping) else ""
            raise UserError(f"data.source: {place}: no field '{path}'{has}") from None
    return record


@component("jsonl_pairs", kind="source", paper="Raffel et al. 2019, arXiv:1910.10683, section 2.4")
@dataclasses.dataclass(frozen=True)
class JsonLinesPairs:
    """JSON lines as pairs: `input` and `target` are texts with fields in braces; split by a hash of the input."""

    glob: str
    input: str = "{input}"
    target: str = "{target}"
    labels: tuple[str, ...] = ()
    step: float | None = None
    validation: float = 0.05
    test: float = 0.0

    def check(self) -> None:
        check_fractions(self.validation, self.test)
        self._form.check()

    @property
    def _form(self) -> Form:
        return Form(self.input, self.target, self.labels, self.step)

    def documents(self, split: Split) -> Iterator[Pair]:
        for place, record in records("jsonl_pairs takes objects", "jsonl_pairs", self.glob):
            pair = self._form(record, place)
            # All pairs of an input fall to one split, so that no answer is known beforehand.
            if split_of(pair.input, self.validation, self.test) == split:
                yield pair

    def fingerprint(self) -> str:
        form = dataclasses.astuple(self._form)
        return digest("jsonl_pairs", form, self.validation, self.test, stamps("jsonl_pairs", self.glob))


@component("tfds_pairs", kind="source", paper="Raffel et al. 2019, arXiv:1910.10683, section 2.4 and appendix D")
@dataclasses.dataclass(frozen=True)
class TfdsPairs(Reader):
    """A dataset of TensorFlow Datasets as pairs: `input` and `target` are texts with fields in braces.

    Where there are no `labels`, a class is written by the dataset's own name for it. Splits and `data_dir` are those of `tfds`.
    """

    dataset: str
    input: str
    target: str
    labels: tuple[str, ...] = ()
    step: float | None = None
    data_dir: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str = "test"

    def check(self) -> None:
        self._form.check()

    @property
    def _form(self) -> Form:
        return Form(self.input, self.target, self.labels, self.step)

    def documents(self, split: Split) -> Iterator[Pair]:
        form = dataclasses.replace(self._form, labels=self.labels or self._names)
        for place, example in self.examples(split):
            yield form(example, place)

    def fingerprint(self) -> str:
        return digest("tfds_pairs", dataclasses.astuple(self._form), self.state())

    def __str__(self) -> str:
        return f"tfds_pairs(dataset={self.dataset!r}" + (f", data_dir={self.data_dir!r})" if self.data_dir else ")")

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        """What the dataset calls the classes of the target; none when it has no class."""
        features = self._builder.info.features
        for _, path, _, _ in string.Formatter().parse(self.target):
            if path in features and (names := getattr(features[path], "names", None)):
                return tuple(names)
        return ()
