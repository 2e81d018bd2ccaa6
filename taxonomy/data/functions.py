"""Pairs from the standard library: the body of a function, from its signature and what its docstring says."""

import ast
import dataclasses
import functools
import warnings
from collections.abc import Iterator

from taxonomy.data.sources import Pair, StandardLibrarySource
from taxonomy.data.storage import SPLITS, Split, digest
from taxonomy.registry import component


@component("stdlib_functions", kind="source", paper="after Li et al. 2022, arXiv:2203.07814, section 3.2")
@dataclasses.dataclass(frozen=True)
class StandardLibraryFunctions:
    """Functions of Python's standard library: the body from signature and docstring, modules split as `stdlib` does.

    Where several modules have the same function, the first one's counts.
    """

    def documents(self, split: Split) -> Iterator[Pair]:
        yield from _functions(StandardLibrarySource().fingerprint())[split]

    def fingerprint(self) -> str:
        return digest("stdlib_functions", StandardLibrarySource().fingerprint())


@functools.lru_cache(maxsize=1)
def _functions(fingerprint: str) -> dict[Split, list[Pair]]:
    """The pairs of each split, of the library with this fingerprint."""
    files = sorted((path, text, split) for split in SPLITS for path, text in StandardLibrarySource().files(split))
    splits: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    seen: set[Pair] = set()
    for _, text, split in files:
        for pair in function_pairs(text):
            if pair not in seen:
                seen.add(pair)
                splits[split].append(pair)
    return splits


def function_pairs(source: str) -> list[Pair]:
    """The functions of a module that have a docstring and a body on lines of its own, in the order of their first lines.

    Input and target, one after the other, are the lines of the function, without what it is indented by. A module that this
    Python cannot parse has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in somebody else's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    # What `ast` counts as lines: str.splitlines knows more ends of lines.
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = sorted((n for n in ast.walk(tree) if isinstance(n, kinds)), key=lambda node: node.lineno)
    return [pair for node in functions if (pair := _pair(node, lines))]


def _pair(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Pair | None:
    if ast.get_docstring(node) is None or len(node.body) < 2:
        return None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    told, last = node.body[0].end_lineno, node.end_lineno
    if node.body[1].lineno <= told:
        return None
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    own = [line.removeprefix(indent) + "\n" for line in lines[first:last]]
    return Pair("".join(own[: told - first]), "".join(own[told - first :]))
