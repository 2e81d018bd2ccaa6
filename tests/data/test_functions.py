"""Functions of the standard library as pairs: the halves of their source, each in one split."""

import ast
import inspect
import textwrap

import pytest

from taxonomy.data.functions import function_pairs
from taxonomy.data.sources import StandardLibrarySource
from taxonomy.registry import create

MODULE = '''
import functools


class Thing:
    """Not a function."""

    @property
    def size(self) -> int:
        """How large.

        In metres.
        """

        # Counted.
        return 3

    async def wait(self): "No lines of its own."; return 1

    def bare(self):
        """Says, and does nothing."""

def plain(x):
    return x

def outer(x,
          y=1):
    """Adds."""
    def inner():
        "A form feed \\f and a separator \\x1c."
        return x + y
    return inner()
'''


def test_the_halves_are_the_lines_of_the_function():
    size, outer, inner = function_pairs(MODULE)
    assert size.input == '@property\ndef size(self) -> int:\n    """How large.\n\n    In metres.\n    """\n'
    assert size.target == "\n    # Counted.\n    return 3\n"
    assert outer.input == 'def outer(x,\n          y=1):\n    """Adds."""\n'
    assert outer.target.startswith("    def inner():\n") and outer.target.endswith("    return inner()\n")
    assert inner.input.startswith("def inner():\n") and inner.target == "    return x + y\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines_are_one(end):
    assert function_pairs(MODULE.replace("\n", end)) == function_pairs(MODULE)


def test_a_module_that_cannot_be_read_has_none():
    assert function_pairs("print 'Python 2'\n") == [] and function_pairs("\0") == []


def test_functions_are_what_python_says_they_are():
    pairs = function_pairs(inspect.getsource(textwrap))
    wanted = [getattr(textwrap, name) for name in ("wrap", "fill", "shorten", "dedent", "indent")]
    for function in wanted:
        (pair,) = [pair for pair in pairs if pair.input + pair.target == inspect.getsource(function)]
        assert ast.get_docstring(ast.parse(pair.input).body[0], clean=False) == function.__doc__


def test_nothing_is_on_both_sides():
    source = create("source", "stdlib_functions", "config.data.source")
    splits = {split: list(source.documents(split)) for split in ("train", "validation", "test")}
    assert len(splits["train"]) > 4000 and min(map(len, splits.values())) > 100
    found = [pair for pairs in splits.values() for pair in pairs]
    assert len(set(found)) == len(found)
    own = StandardLibrarySource()
    for split in ("validation", "test"):
        theirs = [pair for _, text in own.files(split) for pair in function_pairs(text)]
        assert set(splits[split]) <= set(theirs)
    assert source.fingerprint() != own.fingerprint()
