"""A cache of the tests' own, and a small corpus of code and prose."""

import sysconfig
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Nothing is read from or left in the user's own cache; tests share one, so that the library is prepared once."""
    directory = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("TAXONOMY_CACHE", str(directory))
    return directory


@pytest.fixture(scope="session")
def documents():
    """200 different documents: pieces of 20 lines of the standard library."""
    names = ("textwrap", "argparse", "calendar", "difflib", "heapq", "random")
    text = "".join(Path(sysconfig.get_path("stdlib"), f"{name}.py").read_text(encoding="utf-8") for name in names)
    lines = text.splitlines(keepends=True)
    pieces = ["".join(lines[first : first + 20]) for first in range(0, 4000, 20)]
    assert len(set(pieces)) == 200
    return pieces


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, documents):
    """A folder of text files, one a document, in subfolders."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, document in enumerate(documents):
        path = folder / f"part{number % 3}" / f"{number % 2}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.encode())
    return folder
