"""The train command as a user runs it, stops it, kills it and mistypes it."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from training.commands import EIGHT, STEPS, commands, cut_arrays, digests, log, one_line, quiet, reproducible, uninterrupted

from taxonomy import config as config_lib
from taxonomy.training import checkpoints, metrics


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return commands(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and what it printed."""
    return uninterrupted(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def killed(tmp_path_factory, command):
    """The same run, killed before its first checkpoint, while one is being written, and between two; then asked to stop.

    Returns its workdir, a copy of it as it was after the stop, and what became of each start.
    """
    workdir = tmp_path_factory.mktemp("runs") / "killed"
    starts = [command.interrupted("SIGKILL", 3, workdir), command.interrupted("saving", 8, workdir)]
    partial = [p.name for p in (workdir / "checkpoints").iterdir() if "tmp" in p.name]
    starts += [command.interrupted("SIGKILL", 15, workdir), command.interrupted("SIGTERM", 19, workdir)]
    stopped = workdir.with_name("stopped")
    shutil.copytree(workdir, stopped)
    starts.append(command.train(workdir))
    return workdir, stopped, starts, partial


def test_a_run_from_start_to_report(whole):
    workdir, done = whole
    assert quiet(done), done.stderr
    lines = log(workdir)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    keys = {"step", "loss", "tokens_per_second", "tokens_seen", "learning_rate", "grad_norm", "mfu"}
    assert all(keys <= set(line) for line in lines)
    assert [line["tokens_seen"] for line in lines] == [512 * step for step in range(1, STEPS + 1)]
    assert [line["learning_rate"] for line in lines[:6]] == pytest.approx([0.75e-3, 1.5e-3, 2.25e-3, 3e-3, 3e-3, 3e-3])
    assert [line["step"] for line in lines if "validation_loss" in line] == [8, 16, 24]
    assert lines[-1]["loss"] < lines[0]["loss"] - 1 and lines[-1]["validation_loss"] < lines[7]["validation_loss"]
    # A step that follows the first or a checkpoint has no speed of its own.
    assert [line["step"] for line in lines if line["tokens_per_second"] is None] == [1, 5, 9, 13, 17, 21]
    assert all(line["tokens_per_second"] > 0 and line["mfu"] > 0 for line in lines if line["step"] % 4 != 1)
    assert checkpoints.Checkpoints(workdir).steps() == [20, 24]
    assert {p.name for p in workdir.iterdir()} >= {
        "config.json",
        "manifest.json",
        "checkpoints",
        "tokenizer",
        "report.json",
        "loss.png",
    }
    assert list(workdir.glob("events.out.tfevents.*"))
    config = config_lib.from_json((workdir / "config.json").read_text())
    assert config.train.steps == STEPS and config.name == "llama:tiny"
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["packages"]["jax"] == jax.__version__ and "--config.train.steps=24" in manifest["command"]
    report = json.loads((workdir / "report.json").read_text())
    assert report["validation"]["loss"] == lines[-1]["validation_loss"]
    assert "finished step 24" in done.stdout and "resumed" not in done.stdout


def test_kills_leave_no_trace(whole, killed):
    """However often a run is killed, it ends in the same bits, and so does every step of its log."""
    workdir, _, starts, partial = killed
    assert [done.returncode for done in starts] == [-signal.SIGKILL] * 3 + [42, 0]
    assert len(partial) == 1 and partial[0].startswith("8.")
    resumed = [[line for line in done.stdout.splitlines() if line.startswith("resumed")] for done in starts]
    # Killed while step 8 was being saved, step 4 is the newest whole one; killed before step 15, 12 may still be on its way.
    found = [line[0].split()[3] if line else None for line in resumed]
    assert found[:3] == [None, None, "4"] and found[3] in ("8", "12") and found[4] == "19"
    assert reproducible(workdir) == reproducible(whole[0])
    assert digests(workdir, STEPS) == digests(whole[0], STEPS) and len(digests(workdir, STEPS)) > 30
    # Nothing was taken for damage, and what was cut short is cleared away.
    assert not any("damaged" in done.stdout + done.stderr for done in starts)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"20", "24"}


def test_a_stop_is_told_with_its_exit_code(killed):
    workdir, stopped, starts, _ = killed
    assert one_line(starts[3]) == f"error: SIGTERM: saved step 19 to {workdir}; the same command goes on from there"
    assert checkpoints.Checkpoints(stopped).steps()[-1] == 19 and log(stopped)[-1]["step"] == 19


def test_a_run_moves_to_eight_devices(whole, killed, command, tmp_path):
    shutil.copytree(killed[1], tmp_path / "moved")
    done = command.train(tmp_path / "moved", {"mesh": EIGHT}, devices=8)
    assert quiet(done) and "resumed from step 19" in done.stdout and "on 8 cpu device(s)" in done.stdout
    lines, expected = log(tmp_path / "moved"), log(whole[0])
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for key in ("loss", "grad_norm", "param_norm", "validation_loss"):
        found, wanted = ([line[key] for line in each if key in line] for each in (lines, expected))
        assert found == pytest.approx(wanted, rel=1e-5) and len(found) >= 3
    assert lines[-1]["loss"] != expected[-1]["loss"]  # or it was not computed on eight


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


def test_one_run_at_a_time_and_a_signal_from_outside(whole, command, tmp_path):
    """A second run is turned away, the first goes on; on SIGTERM it ends at a step that would have come anyway."""
    workdir = tmp_path / "long"
    longer = {"train.steps": 1_000_000, "evaluation.every": "1000000 steps", "checkpoint.every": "1000000 steps"}
    first = command.start("-m", "taxonomy.train", *command.flags(workdir, longer))
    try:
        wait_for(lambda: (workdir / "metrics.jsonl").exists() and len(metrics.read(workdir)) > 2, first)
        second = command.train(workdir, longer)
        assert second.returncode == 2 and one_line(second) == f"error: --workdir: another run is using {workdir}"
        wait_for(lambda: len(metrics.read(workdir)) > STEPS, first)
    finally:
        first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 42 and err.startswith("error: SIGTERM: saved step ") and err.count("\n") == 1
    (step,) = checkpoints.Checkpoints(workdir).steps()
    assert log(workdir)[-1]["step"] == step
    losses = [line["loss"] for line in log(workdir)]
    assert losses[:STEPS] == [line["loss"] for line in log(whole[0])]


def test_a_run_that_diverges(command, tmp_path):
    workdir = tmp_path / "diverging"
    done = command.train(workdir, {"train.schedule": "constant(peak=1e30)", "checkpoint.every": "1 steps"})
    assert done.returncode == 3
    assert one_line(done) == "error: step 4: 3 updates in a row were not finite; the last good checkpoint is kept"
    told = [line for line in done.stdout.splitlines() if "not finite" in line]
    assert [line.split(" (")[-1] for line in told] == [f"{n} in a row)" for n in (1, 2, 3)]
    _, params = checkpoints.restore_params(workdir)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_another_config_does_not_go_on(whole, command):
    before = {p: p.stat().st_mtime_ns for p in whole[0].rglob("*") if p.is_file() and p.name != "lock"}
    done = command.train(whole[0], {"model.mlp": "swiglu(d_ff=80)"})
    assert done.returncode == 2
    assert "config.model.mlp was 'swiglu(d_ff=160)', is 'swiglu(d_ff=80)'. Use a new --workdir" in one_line(done)
    assert {p: p.stat().st_mtime_ns for p in whole[0].rglob("*") if p.is_file() and p.name != "lock"} == before


def test_no_usable_checkpoint(whole, command, tmp_path):
    """A run whose checkpoints are all damaged is not started again from nothing."""
    shutil.copytree(whole[0], tmp_path / "damaged")
    for step in (20, 24):
        cut_arrays(tmp_path / "damaged", step)
    done = command.train(tmp_path / "damaged")
    assert done.returncode == 4 and "none of the checkpoints [20, 24] can be read" in one_line(done)
    assert [line.split(" (")[0] for line in done.stdout.splitlines() if "damaged" in line] == [
        "checkpoint 24 is damaged",
        "checkpoint 20 is damaged",
    ]
    assert reproducible(tmp_path / "damaged") == reproducible(whole[0])


MISTAKES = {
    "unknown key": ({"model.d_modle": 8}, "config.model.d_modle: unknown key 'd_modle'; did you mean 'd_model'?"),
    "wrong type": ({"train.steps": "abc"}, "config.train.steps: expected int, got 'abc'"),
    "no text": ({"data.source": "text(glob='/nowhere/*.txt')"}, "data.source: text(glob='/nowhere/*.txt') matches no file"),
    "too many pieces": (
        {"data.tokenizer": "sentencepiece(vocab=50000)", "model.vocab": 50000},
        "tokenizer.vocab: 50000 is more than",
    ),
    "heads": ({"model.attention": "mha(heads=5)"}, "model.attention: head_dim=d_model / heads is 12.8, not a whole number"),
    "batch": ({"train.batch_tokens": 1000}, "config.train.batch_tokens: must be a multiple of the context 64, got 1000"),
    "mesh axis": ({"mesh": "dtaa:1"}, "config.mesh: unknown axis 'dtaa' in 'dtaa:1'; did you mean 'data'?"),
}


@pytest.mark.parametrize(("changes", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(command, tmp_path, changes, said):
    done = command.train(tmp_path / "never", changes)
    assert done.returncode == 2 and said in one_line(done)
    assert "loss" not in done.stdout and not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/nowhere.py", "--workdir=WORKDIR"], "config: no file configs/nowhere.py"),
        (["--config=lama:tiny", "--workdir=WORKDIR"], "config: no file lama.py; did you mean 'llama'?"),
        (["--config=llama:tiny"], "--workdir: required, for example --workdir=runs/quickstart"),
        (["--workdir=WORKDIR"], "--config: required, for example"),
        (["--config=llama:tiny", "--workdir=WORKDIR", "more"], "unexpected argument 'more'"),
        (["--config=llama:tiny", "--wrokdir=WORKDIR"], "wrokdir"),
    ],
)
def test_a_mistaken_command_line(command, tmp_path, arguments, said):
    done = command.run("-m", "taxonomy.train", *(a.replace("WORKDIR", str(tmp_path / "never")) for a in arguments))
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) <= 2 and done.stdout == ""
    assert not (tmp_path / "never").exists()


def test_a_printed_config_can_be_read_back(command, tmp_path):
    done = command.train(tmp_path / "never", {"train.microbatch_tokens": None, "about.published": 3}, extra=["--print_config"])
    assert quiet(done) and not (tmp_path / "never").exists()
    config = config_lib.from_json(done.stdout)
    assert config_lib.to_json(config) == done.stdout.rstrip("\n")
    assert (config.train.steps, config.train.microbatch_tokens, config.about.published) == (STEPS, None, 3.0)
    assert config.train.schedule == "constant(peak=3e-3, warmup='4 steps')" and config.name == "llama:tiny"


def test_a_dry_run_compiles_and_leaves_nothing(command, tmp_path):
    """It needs no data."""
    done = command.train(tmp_path / "never", {"mesh": EIGHT, "data.source": "text(glob='/nowhere')"}, 8, ["--dry_run"])
    assert quiet(done), done.stderr
    assert "llama:tiny: 151,872 parameters" in done.stdout and "over 8 device(s)" in done.stdout and "compiled" in done.stdout
    assert not (tmp_path / "never").exists()
