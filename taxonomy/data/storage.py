"""Files of the data package: where the cache is, how a directory is written whole, how things are hashed."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def cache_directory() -> Path:
    """Where prepared data is kept: the environment variable TAXONOMY_CACHE, otherwise ~/.cache/taxonomy."""
    return Path(os.environ.get("TAXONOMY_CACHE") or "~/.cache/taxonomy").expanduser()


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """Returns `directory`, filled by `build(temporary_directory)` when it does not exist yet.

    The directory appears whole, by a rename. When several processes build it at once the first to finish wins, and the
    others use its result.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{directory.name}.partial-", dir=directory.parent))
    try:
        # mkdtemp is private to its owner; a shared cache is not.
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        build(partial)
        try:
            partial.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def digest(*parts: object) -> str:
    """A stable hash (32 hexadecimal digits) of the text of `parts`, which may be nested lists of strings and numbers."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def unit_interval(name: str) -> float:
    """A stable pseudo-random number in [0, 1) for a name; documents are assigned to splits by it."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


def split_of(name: str, validation: float, test: float) -> Split:
    """The split of a document, by the hash of its name: stable when other documents come or go."""
    place = unit_interval(name)
    return "validation" if place < validation else "test" if place < validation + test else "train"
