"""A source over TensorFlow Datasets without TensorFlow: array_record by random access, older TFRecord copies in order."""

import dataclasses
import functools
import importlib
import itertools
from collections.abc import Iterator
from typing import Any

from taxonomy.data.storage import Split, digest
from taxonomy.errors import UserError
from taxonomy.registry import component

READ_AHEAD = 256  # examples


class Reader:
    """What reads a dataset's examples: for dataclasses with the fields dataset, data_dir, train, validation and test."""

    def examples(self, split: Split) -> Iterator[tuple[str, dict[str, Any]]]:
        """The examples of one of our splits, each with its place for messages."""
        tfds_split, start, stop = self._part(split)
        for number, example in enumerate(_examples(self._builder, tfds_split, start, stop), start=start):
            yield f"{self}: example {number} of '{tfds_split}'", example

    def state(self) -> list[Any]:
        """What changes when the dataset's examples or the choice of them may have changed."""
        info = self._builder.info
        sizes = [(name, part.num_bytes, part.shard_lengths) for name, part in sorted(info.splits.items())]
        return [info.full_name, sizes, self.train, self.validation, self.test]

    @functools.cached_property
    def _builder(self) -> Any:
        return prepared_builder(self.dataset, self.data_dir, shown=str(self))

    def _part(self, split: Split) -> tuple[str, int, int]:
        """The TFDS split to read, the first of its examples and the end."""
        carved = self.validation is None and "validation" not in self._builder.info.splits
        if split == "validation" and not carved:
            tfds_split = self.validation or "validation"
        else:
            tfds_split = self.test if split == "test" else self.train
        try:
            count = _count(self._builder, tfds_split)
        except (ValueError, NotImplementedError) as error:  # an unknown split; a part of "all", which TFDS has not implemented
            raise UserError(f"data.source: {self}: split '{tfds_split}': {_first_line(error)}") from error
        if split == "test" or not carved:
            return tfds_split, 0, count
        cut = count - max(1, count // 20) if count > 1 else count
        return (tfds_split, 0, cut) if split == "train" else (tfds_split, cut, count)


@component("tfds", kind="source", paper="")
@dataclasses.dataclass(frozen=True)
class TfdsSource(Reader):
    """A text dataset of TensorFlow Datasets, by name: 'lm1b', 'c4/en', 'wiki40b/en:1.3.0'.

    `train`, `validation` and `test` are TFDS splits such as 'train[:10%]'. Without `validation` that is the split of this
    name, or the last 5% of `train` where the dataset has none. `data_dir` holds prepared datasets (TFDS's default:
    $TFDS_DATA_DIR, otherwise ~/tensorflow_datasets); what is not there is downloaded and prepared.
    """

    dataset: str
    field: str = "text"
    data_dir: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str = "test"

    def documents(self, split: Split) -> Iterator[str]:
        self._check_field()
        for place, example in self.examples(split):
            text = example[self.field]
            if isinstance(text, bytes):
                try:
                    text = text.decode()
                except UnicodeDecodeError as error:
                    raise UserError(f"data.source: {place} is not UTF-8: {error}") from error
            if text:
                yield text

    def fingerprint(self) -> str:
        return digest("tfds", self.field, self.state())

    def __str__(self) -> str:
        return f"tfds(dataset={self.dataset!r}" + (f", data_dir={self.data_dir!r})" if self.data_dir else ")")

    def _check_field(self) -> None:
        features = dict(self._builder.info.features)
        texts = [name for name, feature in features.items() if feature.shape == () and feature.np_dtype in (object, str)]
        if self.field not in texts:
            raise UserError(
                f"data.source: {self}: field '{self.field}' is not a text of this dataset (texts: {', '.join(sorted(texts))})"
            )


def prepared_builder(name: str, data_dir: str | None, shown: str) -> Any:
    """The TFDS builder of a dataset whose files are on disk, prepared now if they were not."""
    builder = _find_builder(name, data_dir, shown)
    if builder.is_prepared():
        return builder
    import tensorflow_datasets as tfds

    # Without TensorFlow only array_record and parquet can be written.
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:
        raise UserError(
            f"data.source: {shown} is not prepared in {builder.data_dir} and preparing it failed: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    return builder


def _find_builder(name: str, data_dir: str | None, shown: str) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    # Datasets in the older layout (c4, wikipedia, wmt, ...) are known by name only once their modules are imported.
    older = ("text", "translate", "summarization", "question_answering", "text_simplification")
    for package in older:
        importlib.import_module(f"tensorflow_datasets.{package}")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except DatasetNotFoundError as error:
        place = data_dir or "TFDS's data directory ($TFDS_DATA_DIR or ~/tensorflow_datasets)"
        close = [line.strip().removeprefix("Did you mean: ") for line in str(error).splitlines() if "Did you mean" in line]
        hint = f"; did you mean {close[0]}" if close else ""
        raise UserError(
            f"data.source: {shown}: no such dataset; tried files under {place}, TFDS by name, and its "
            f"{', '.join(older)} modules{hint}"
        ) from error
    except ValueError as error:
        raise UserError(f"data.source: {shown}: {_first_line(error)}") from error


def _is_tfrecord(builder: Any) -> bool:
    from tensorflow_datasets.core.file_adapters import FileFormat

    return builder.info.file_format == FileFormat.TFRECORD


def _count(builder: Any, split: str) -> int:
    if _is_tfrecord(builder):
        return builder.info.splits[split].num_examples
    return len(builder.as_data_source(split=split))


def _examples(builder: Any, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Examples start..stop of a split, in order."""
    if _is_tfrecord(builder):
        yield from itertools.islice(_tfrecord_examples(builder, split), start, stop)
        return
    source = builder.as_data_source(split=split)
    for first in range(start, stop, READ_AHEAD):
        yield from source.__getitems__(range(first, min(first + READ_AHEAD, stop)))


def _tfrecord_examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    import grain

    for part in builder.info.splits[split].file_instructions:
        records = grain.experimental.TFRecordIterDataset(str(part.filename))
        for record in itertools.islice(records, part.skip, part.skip + part.take):
            yield builder.info.features.deserialize_example_np(record)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
