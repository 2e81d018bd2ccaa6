"""What the README says is true: its index is current, and every command runs that it or a page beside it shows."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import urllib.request

import pytest

from taxonomy import index

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    README,
    *((ROOT / f"{name}.md").read_text() for name in ("docs/training", "docs/inference", "docs/plans", "launch/README")),
]


def commands() -> list[str]:
    """The `python -m taxonomy...` lines of the pages, without their comments."""
    found = [line for page in PAGES for line in re.findall(r"^python -m taxonomy\.\w+.*$", page, re.MULTILINE)]
    return [line.split("   #")[0].split("  # ")[0].strip() for line in found]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A directory where the quickstart has run for a few steps and a checkpoint in Hugging Face layout lies."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "configs").symlink_to(ROOT / "configs")
    quickstart = re.search(r"&& (python -m taxonomy\.train .*quickstart)$", README, re.MULTILINE)[1]
    run(desk, quickstart, steps=3)
    from taxonomy.interop import engine
    from taxonomy.training import checkpoints

    engine.to_hf(*checkpoints.restore_params(desk / "runs/quickstart"), desk / "DIRECTORY")
    return desk


def run(desk: pathlib.Path, command: str, steps: int) -> str:
    python, *words = shlex.split(command)
    assert python == "python"
    environment = users_environment() | {"TAXONOMY_MAX_STEPS": str(steps)}
    done = subprocess.run([sys.executable, *words], cwd=desk, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def users_environment() -> dict[str, str]:
    """Without the simulated devices and the cheap compilation of the tests."""
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}


def test_index_is_current():
    begin, end = "<!-- index:begin -->", "<!-- index:end -->"
    assert README.split(begin)[1].split(end)[0].strip() == index.render().strip(), "run: python -m taxonomy.index --write"


@pytest.mark.parametrize("command", commands())
def test_command_runs(desk, command):
    if "taxonomy.serve" in command:
        served(desk, command)
    else:
        assert run(desk, command, steps=3).strip()


def served(desk: pathlib.Path, command: str) -> None:
    """Serves at a free port until the request that the README shows is answered, and ends when it is asked to."""
    shown = re.search(r"^curl http://127.0.0.1:8000(/\S+) -d '(.*)'$", "\n".join(PAGES), re.MULTILINE)
    assert "--port=8000" in command
    words = [sys.executable, *shlex.split(command.replace("--port=8000", "--port=0"))[1:]]
    with subprocess.Popen(words, cwd=desk, env=users_environment(), stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
            with urllib.request.urlopen(address + shown[1], shown[2].encode(), timeout=600) as answer:
                assert answer.read().endswith(b"data: [DONE]\n\n")
            server.terminate()
            assert server.wait(timeout=600) == 0
        finally:
            server.kill()


def test_python_example_runs(desk):
    code = re.search(r"```python\n(import jax, taxonomy.*?)```", README, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=desk, env=users_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_sentence_of_the_first_example_is_the_published_size():
    import taxonomy

    code = re.search(r"```python\n(model = dict.*?)```", README, re.DOTALL)[1]
    values: dict = {}
    exec(code, values)
    assert taxonomy.count(values["model"]).parameters == 6_050_882_784
