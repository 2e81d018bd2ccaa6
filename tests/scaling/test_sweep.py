"""The command, as somebody with a table uses it."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from scaling.common import LAW, planned, write_table

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A directory with the table that the page of the documentation imports."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "configs").symlink_to(ROOT / "configs")
    rows = [(row["params"], row["flops"], row["loss"]) for row in planned(noise=0.003).rows]
    write_table(desk / "runs.csv", ("Model Size", "Training FLOP", "loss"), [*rows, (1e9, 1e20, "nan")])
    return desk


def run(desk, command, code=0):
    words = shlex.split(command.removeprefix("python "))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=desk, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout if code == 0 else done.stderr


def test_the_page_runs(desk):
    """Every command of the page, in its order, which is the order of the work."""
    commands = re.findall(r"^python -m taxonomy\.sweep .*$", PAGE.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) >= 6
    output = {command: run(desk, command.split("   #")[0]) for command in commands}
    assert "35 runs, 1 left out" in output[commands[0]]
    report = (desk / "runs/study/report.html").read_text()
    # Nothing is fetched: every picture is inside.
    assert not re.findall(r'(?:src|href)="(?!data:)', report) and report.count("<img") == 4
    assert sorted(p.name for p in (desk / "runs/study/plots").glob("*.png"))[0].endswith(".png")
    found = json.loads(run(desk, "python -m taxonomy.sweep fit --workdir=runs/study --bootstraps=0 --json"))
    assert (
        found["parameters"]["alpha"] == pytest.approx(LAW["alpha"], rel=0.2)
        and found["excluded"][0]["reason"] == "loss: nan is not finite"
    )


def test_coordinates_are_printed_and_drawn(desk):
    words = "coordinates --config=gpt2:tiny --config.model.decoder=block --widths=32,16 --steps=1 --workdir=widths --json"
    found = json.loads(run(desk, f"python -m taxonomy.sweep {words}"))
    assert (found["widths"], found["figure"]) == ([16, 32], "widths/plots/coordinates.png")
    assert (desk / found["figure"]).read_bytes().startswith(b"\x89PNG")
    # The narrowest is the base, where both are one.
    narrow = [[sizes[0] for sizes in found[name]["sizes"].values()] for name in ("standard", "mup")]
    assert narrow[0] == narrow[1] and "logits" in found["mup"]["ratios"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("coordinates --config=gpt2:tiny --widths=64,x", "error: --widths: expected a whole number of at least 1, got 'x'"),
        ("", "error: sweep: say one of import, fit, plot, ask, coordinates"),
        ("fits", "error: sweep: unknown command 'fits'; did you mean 'fit'?"),
        ("fit --workdir=nowhere", "error: --workdir: nowhere/results.jsonl does not exist"),
        ("ask --workdir=w --chips=h100-8 --hours=0", "error: --hours: expected a number greater than 0, got 0"),
        ("ask --workdir=w --flops=1e21 --count=params_body", "error: --count: sweep ask does not read it (allowed: sweep fit)"),
        ("import runs.csv --workdir=w --columns=params=Size", "error: --columns: the file has no column 'Size'"),
    ],
)
def test_mistakes_are_one_line(desk, words, message):
    said = run(desk, f"python -m taxonomy.sweep {words}", code=2)
    assert said.startswith(message) and said.count("\n") == 1


def test_fits_need_no_jax():
    code = "import sys, taxonomy.sweep; from taxonomy.scaling import ask, fits, shown, table; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
