"""The standard library as a TFDS dataset: array_record files, built and read without TensorFlow."""

import contextlib
import io
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from taxonomy.data.sources import standard_library_splits

Documents = dict[str, list[tuple[str, str]]]  # split -> (relative path, text)


class StandardLibrary(tfds.core.GeneratorBasedBuilder):
    """Python's standard library: one example a file, in the order of their paths."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, documents: Documents | None = None, **arguments):
        """`documents` are those of this machine's library unless given."""
        self._documents = documents
        super().__init__(**{"file_format": "array_record"} | arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"path": tfds.features.Text(), "text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        documents = standard_library_splits() if self._documents is None else self._documents
        return {split: self._generate_examples(files) for split, files in documents.items()}

    def _generate_examples(self, files):
        for index, (path, text) in enumerate(files):
            yield index, {"path": path, "text": text}


def write(directory: Path, documents: Documents | None = None) -> None:
    """Prepares the dataset under `directory`."""
    # TFDS announces a download on stdout; there is none, and stdout belongs to the command that runs.
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            StandardLibrary(documents=documents, data_dir=directory).download_and_prepare()
    finally:
        tfds.display_progress_bar(True)
    shutil.rmtree(directory / "downloads", ignore_errors=True)


def read(directory: Path, split: str):
    """The examples of a split, as a random-access sequence of dicts with `path` and `text` in UTF-8."""
    return tfds.builder_from_directory(directory / StandardLibrary.name / str(StandardLibrary.VERSION)).as_data_source(split)
