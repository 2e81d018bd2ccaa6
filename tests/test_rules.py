"""House rules that a reader of one file cannot check."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from taxonomy import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "taxonomy").rglob("*.py"))
PAGES = sorted(ROOT.glob("configs/**/*.py"))
# Pages that belong to no published system may be named anywhere.
NEUTRAL_PAGES = {"quickstart"}
# Words of others in which a family's name stands: optax calls an optimizer's state so.
NEUTRAL_WORDS = re.compile(r"\bopt_state\b|\bt5_bias\b")
# Peers of benchmarks run in processes of their own, which nothing else imports.
PEERS = {f"taxonomy/interop/{name}.py" for name in ("peers", "expert_peers", "decode_peers")}
RUNTIME_BANNED = {"torch", "transformers", "tensorflow", "pickle", "dill", "cloudpickle", "marshal", "shelve"}


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def prose(module: ast.Module) -> set[int]:
    """Lines of docstrings, where papers are cited."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    strings = [n.body[0] for n in ast.walk(module) if isinstance(n, owners) and n.body and ast.get_docstring(n) is not None]
    return {line for s in strings for line in range(s.lineno, s.end_lineno + 1)}


def families_named(path: pathlib.Path, text: str) -> list[str]:
    """Lines that name a family, except a citation in a docstring and a page given as an example, such as `name:size`."""
    names = [family for family in config_lib.families() if family not in NEUTRAL_PAGES]
    family = re.compile(
        r"(?<![A-Za-z0-9])(" + "|".join(re.escape(n).replace("gpt", "gpt-?") for n in names) + r")(?![A-Za-z0-9]|:\w)", re.I
    )
    cited = prose(ast.parse(text))
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        citation = "arXiv:" in line and (number in cited or "paper=" in line)
        if family.search(NEUTRAL_WORDS.sub("", line)) and not citation:
            found.append(f"{path}:{number}: {line.strip()}")
    return found


@pytest.mark.parametrize("path", [p for p in PACKAGE if "interop" not in p.parts], ids=name)
def test_no_family_is_named_in_the_package(path):
    assert families_named(path, path.read_text()) == []


def test_the_search_for_families_finds_them():
    family = next(f for f in config_lib.families() if f not in NEUTRAL_PAGES)
    for line in (f"if name == '{family}': pass", f"# as {family.upper()} does", f"{family}_scale = 1", f"paper = '{family} 2019'"):
        assert families_named(pathlib.Path("x.py"), line), line
    for line in (
        f'"""An idea ({family}, arXiv:2204.02311)."""',
        f"example = '--config={family}:tiny'",
        f"x = my{family}y",
        "state.opt_state = 1",
    ):
        assert not families_named(pathlib.Path("x.py"), line), line


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_a_file_is_one_idea(path):
    assert len(path.read_text().splitlines()) < 500


@pytest.mark.parametrize("path", PACKAGE + PAGES, ids=name)
def test_a_file_says_what_it_is(path):
    if path.read_text().strip():
        assert ast.get_docstring(tree(path)), "no docstring"


@pytest.mark.parametrize("path", [p for p in PAGES if p.stem != "__init__"], ids=name)
def test_a_family_is_a_page(path):
    """At most 60 lines, its tables (top-level assignments) and blank lines not counted."""
    tables = {line for n in tree(path).body if isinstance(n, ast.Assign) for line in range(n.lineno, n.end_lineno + 1)}
    lines = [n for n, line in enumerate(path.read_text().splitlines(), 1) if line.strip() and n not in tables]
    assert len(lines) <= 60


@pytest.mark.parametrize("path", PACKAGE + PAGES, ids=name)
def test_nothing_runs_strings_or_foreign_objects(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            banned = set() if name(path) in PEERS else {m.split(".")[0] for m in modules} & RUNTIME_BANNED
            assert not banned, f"line {node.lineno} imports {banned}"
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            bare = isinstance(node.func, ast.Name)
            assert not (bare and called in ("eval", "exec", "compile", "__import__")), f"line {node.lineno} calls {called}"
            pickled = any(k.arg == "allow_pickle" and getattr(k.value, "value", True) is not False for k in node.keywords)
            assert not pickled, f"line {node.lineno} allows pickles"


def test_pages_only_describe():
    """A page is data: it imports nothing but the means to say it."""
    for path in PAGES:
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                assert all(m.split(".")[0] in ("taxonomy", "ml_collections", "math") for m in modules), (
                    f"{name(path)}:{node.lineno}"
                )


def test_the_package_starts_without_heavy_imports():
    """`import taxonomy` and the notation are quick: they need no JAX."""
    code = "import sys, taxonomy, taxonomy.notation, taxonomy.spec, taxonomy.config; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=["check", "format"])
def test_ruff_is_content(arguments):
    code = [folder for folder in ("taxonomy", "configs", "tests", "launch", "colab", "setup.py") if (ROOT / folder).exists()]
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "--no-cache", *code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
