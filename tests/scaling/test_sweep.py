"""The command, as somebody with a table uses it."""

import json
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest
from training.commands import commands

from scaling.common import LAW, planned, write_table
from taxonomy.scaling import cells as cells_lib
from taxonomy.scaling import claims, results

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()


# What the page calls the smoke study, so small that it takes seconds; and one of a single shape.
STUDY = """
from taxonomy.scaling import study

SMALL = {{
    "model.context": 16,
    "model.attention": "mha(heads=2)",
    "data.source": "text(glob='{corpus}/*.txt')",
    "train.batch_tokens": 64,
    "train.log_every": 5,
    "evaluation.batch_tokens": 64,
    "evaluation.max_tokens": 512,
    "checkpoint.every": "8 steps",
}}
STUDY = study.load("smoke").but(settings=SMALL, least_steps=2, {changes})
"""
CURVES = "ladder=(dict(width=4, depth=1), dict(width=8, depth=1)), sizes=2, budgets=(2e7, 4e7, 8e7), holdout=(1.6e8,)"
SEEDS = 'ladder=(dict(width=4, depth=1),), budgets=(), holdout=(), compute="3e7", axes={"rate": (0.03, 0.01)}, seeds=(0, 1)'


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return commands(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def desk(tmp_path_factory, command):
    """A directory with the table and a study in the place of the one that the page of the documentation uses."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "configs" / "sweeps").mkdir(parents=True)
    (desk / "configs" / "sweeps" / "smoke.py").write_text(STUDY.format(corpus=command.corpus, changes=CURVES))
    (desk / "seeds.py").write_text(STUDY.format(corpus=command.corpus, changes=SEEDS))
    rows = [(row["params"], row["flops"], row["loss"]) for row in planned(noise=0.003).rows]
    write_table(desk / "runs.csv", ("Model Size", "Training FLOP", "loss"), [*rows, (1e9, 1e20, "nan")])
    return desk


def environment(desk, **more):
    """A user's, but for cheap compilation that is kept, and prepared text of the tests' own."""
    kept = {name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"}
    return kept | {
        "TAXONOMY_CACHE": str(desk / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **more,
    }


def run(desk, command, code=0, **more):
    words = shlex.split(command.removeprefix("python "))
    place = {"cwd": desk, "env": environment(desk, **more)}
    done = subprocess.run([sys.executable, *words], **place, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout if code == 0 else done.stderr


def test_the_page_runs(desk):
    """Every command of the page, in its order, which is the order of the work."""
    commands = re.findall(r"^python -m taxonomy\.sweep .*$", PAGE.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) >= 12
    name = lambda command: " ".join((command.split()[3], re.search(r"(?:runs|sweeps)/(\w+)", command)[1]))  # noqa: E731
    output = {name(command): run(desk, command.split("   #")[0]) for command in commands}
    _check_study(desk, output)
    assert "35 runs, 1 left out" in output["import study"]
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


def _check_study(desk, output):
    """The study of the page: planned, run, fitted, predicted and answered."""
    smoke = desk / "runs" / "smoke"
    assert "6 cells and 1 held out" in output["plan smoke"] and "the size of the training text is not known" in output["plan smoke"]
    _, cells = cells_lib.read(smoke)
    rows = [json.loads(line) for line in (smoke / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [cell.id for cell in cells] and rows[-1]["excluded"] == "held out"
    assert "6 finished, 1 waiting" in output["status smoke"]
    for row, cell in zip(rows, cells, strict=True):
        lines = (cell.folder(smoke) / "run.1" / "metrics.jsonl").read_text().splitlines()
        assert row["loss"] == json.loads(lines[-1])["validation_loss"] and row["steps"] == json.loads(lines[-1])["step"]
    prediction, verdict = (json.loads((smoke / f"{name}.json").read_text()) for name in ("prediction", "check"))
    assert rows[-1]["prediction"] == prediction["sha256"] == verdict["sha256"]
    assert verdict["cells"][0]["loss"] == rows[-1]["loss"] and "inside" in verdict["cells"][0]
    assert "side 95%" in output["check smoke"]
    (printed,) = re.findall(r"python -m taxonomy\.train .*", output["ask smoke"])
    assert run(desk, printed.replace(" --workdir=", " --config.report.new_tokens=0 --workdir="), TAXONOMY_MAX_STEPS="2")
    # What has ended is not run again.
    before = (smoke / "results.jsonl").read_text()
    assert "compiling" not in run(desk, "python -m taxonomy.sweep run --workdir=runs/smoke")
    assert (smoke / "results.jsonl").read_text() == before
    html = (smoke / "report.html").read_text()
    assert prediction["sha256"][:16] in html


def losses(workdir):
    return {row["id"]: (row["loss"], row["steps"]) for row in results.read(workdir).rows}


def test_a_study_survives_kills(desk):
    """Two workers, killed at random again and again: the results are those of an undisturbed run."""
    words = [sys.executable, "-m", "taxonomy.sweep", "run", "--study=seeds.py"]

    def start(workdir):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*words, f"--workdir={workdir}"], cwd=desk, env=environment(desk), **quiet)

    assert start("undisturbed").wait(timeout=600) == 0
    generator, kills, disturbed = random.Random(1), 0, desk / "disturbed"
    workers = [start(disturbed), start(disturbed)]
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.05)
            _, cells = cells_lib.read(disturbed) if cells_lib.exists(disturbed) else (None, [])
            owners = [claims.holder(cell.folder(disturbed))[1] for cell in cells if cell.result(disturbed) is None]
            busy = [place for place in (0, 1) if any(f"-{workers[place].pid}-" in owner for owner in owners)]
            if kills < 2 and busy:
                time.sleep(generator.uniform(0, 1.5))
                place = generator.choice(busy)
                workers[place].send_signal(signal.SIGKILL)
                workers[place].wait()
                kills, workers[place] = kills + 1, start(disturbed)
        assert [worker.returncode for worker in workers] == [0, 0] and kills
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert len(losses(disturbed)) == 4 and losses(disturbed) == losses(desk / "undisturbed")
    # Finished checkpoints are never made twice: each cell's last worker has the only folder that is left.
    for cell in cells_lib.read(disturbed)[1]:
        assert len(list(cell.folder(disturbed).glob("run.*"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("coordinates --config=gpt2:tiny --widths=64,x", "error: --widths: expected a whole number of at least 1, got 'x'"),
        ("", "error: sweep: say one of plan, run, status, check, import, fit, plot, ask, coordinates"),
        ("fits", "error: sweep: unknown command 'fits'; did you mean 'fit'?"),
        ("plan", "error: --study: required, for example --study=configs/sweeps/smoke.py"),
        ("plan --study=smok", "error: --study: no file"),
        ("run --study=seeds.py --workdir=w --only=x*", "error: --only: no cell's id is like 'x*'"),
        ("status --workdir=nowhere", "error: --workdir: nowhere/plan.json does not exist; `sweep run --study=...` makes it"),
        ("check --workdir=nowhere", "error: --workdir: nowhere/plan.json does not exist"),
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
