"""The evaluate command agrees with the run it evaluates."""

import json
import math
import shutil

import pytest
from training.commands import EIGHT, commands, cut_arrays, log, one_line, quiet, uninterrupted


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    command = commands(tmp_path_factory.getbasetemp())
    return lambda *arguments, devices=1: command.run("-m", "taxonomy.evaluate", *arguments, devices=devices)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return uninterrupted(tmp_path_factory.getbasetemp())[0]


def figures(done) -> dict:
    assert quiet(done), done.stderr
    return json.loads(done.stdout)


def test_the_figures_are_those_of_the_run(evaluate, workdir):
    found = figures(evaluate(f"--workdir={workdir}", "--json"))
    last = log(workdir)[-1]
    for key in ("loss", "perplexity", "accuracy", "bits_per_byte", "tokens"):
        assert found[key] == pytest.approx(last[f"validation_{key}"], rel=1e-6), key
    assert found["split"] == "validation" and found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    # One id a byte, one more that begins each document and costs nothing in bytes.
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2), rel=0.01)


def test_for_a_person_on_other_text_and_devices(evaluate, workdir, tmp_path):
    """A repetition of what was learned is easier than random letters, whatever machine says so."""
    (tmp_path / "easy.txt").write_text("the model reads a line of text " * 200)
    (tmp_path / "hard.txt").write_text("".join(chr(97 + i * i * 7919 % 26) for i in range(6000)))
    losses = {}
    for name, devices, mesh in (("easy", 8, EIGHT), ("hard", 1, "data:-1")):
        source = f"--source=text(glob='{tmp_path}/{name}.txt', validation=0.5)"
        done = evaluate(f"--workdir={workdir}", source, f"--mesh={mesh}", "--max_tokens=1000", devices=devices)
        assert quiet(done), done.stderr
        first, *rows = done.stdout.splitlines()
        assert first == f"{workdir}, validation split, 999 tokens"
        shown = {row[:16].strip(): float(row[16:]) for row in rows}
        assert list(shown) == ["loss", "perplexity", "accuracy", "bits per byte"]
        losses[name] = shown["loss"]
    assert losses["easy"] < losses["hard"] - 0.3


def test_tasks_are_asked_instead(evaluate, workdir):
    done = figures(evaluate(f"--workdir={workdir}", "--tasks=next_name(count=8), sums", "--limit=3", "--json"))
    assert done["workdir"] == str(workdir) and list(done["tasks"]) == ["next_name(count=8)", "sums"]
    assert done["tasks"]["sums"] == {
        "documents": 3,
        "shots": 4,
        "exact_match (first_number)": 0,
        "exact_match_stderr (first_number)": 0,
    }
    assert done["tasks"]["next_name(count=8)"]["documents"] == 3


def test_a_damaged_checkpoint_is_said_and_left_in_place(evaluate, workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    cut_arrays(copy, 24)
    done = evaluate(f"--workdir={copy}", "--json")
    assert done.returncode == 0 and done.stderr.startswith("checkpoint 24 is damaged (") and done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["loss"] > log(workdir)[-1]["validation_loss"]
    assert {p.name for p in (copy / "checkpoints").iterdir()} == {"20", "24"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--workdir=/nowhere"], 4, "--workdir: no directory /nowhere"),
        (["--workdir=EMPTY"], 4, "no checkpoint there"),
        ([], 2, "--workdir: required"),
        (["--workdir=RUN", "--split=test"], 2, "data: the split to evaluate has 0 tokens"),
        (["--workdir=RUN", "--tasks=sums", "--split=test"], 2, "--split: not with --tasks"),
        (["--workdir=RUN", "--limit=3"], 2, "--limit: only with --tasks"),
        (["--workdir=RUN", "--mesh=data:3"], 2, "config.mesh: 'data:3' asks for 3 devices, 1 are there"),
    ],
)
def test_a_mistake_is_one_line(evaluate, workdir, tmp_path, arguments, code, said):
    done = evaluate(*(a.replace("EMPTY", str(tmp_path)).replace("RUN", str(workdir)) for a in arguments))
    assert done.returncode == code and said in one_line(done)
