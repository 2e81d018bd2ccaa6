"""Files that several processes write, on a disk that they share: each appears whole or not at all."""

import os
import pathlib
import uuid

from taxonomy.errors import UserError


def replace(path: pathlib.Path, text: str) -> pathlib.Path:
    """Writes a file in the place of what was there."""
    beside = _beside(path, text)
    beside.replace(path)
    return path


def exclusive(path: pathlib.Path, text: str) -> bool:
    """Writes a file that is not there yet; False, and nothing written, where it is. Of several callers one succeeds."""
    beside = _beside(path, text)
    try:
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        except OSError as error:
            raise UserError(
                f"--workdir: {path.parent} is on a disk without hard links, which claims need ({error.strerror})"
            ) from None
        # A network disk may lose the answer of a link that it made; the count of names tells.
        return beside.stat().st_nlink == 2
    finally:
        beside.unlink()


def _beside(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    beside.write_text(text)
    return beside
