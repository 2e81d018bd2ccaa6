"""Claims under concurrency: nothing is run twice to its end and nothing is left, whoever dies when."""

import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from taxonomy.errors import Diverged, Preempted, UserError
from taxonomy.scaling import cells as cells_lib
from taxonomy.scaling import claims, runner, states
from taxonomy.scaling.cells import RESULT, Cell
from taxonomy.scaling.study import Study

ROOT = pathlib.Path(__file__).parents[2]


def fakes(count):
    """Cells of a study that nothing is trained for."""
    counts = {"params": 10, "tokens": 100.0, "flops": 6000.0, "steps": 5, "seed": 0}
    return [Cell(f"cell{n}", f"cell{n}-key", {}, {}, counts | {"params": 10 + n}) for n in range(count)]


def fake(seconds=0.0, log=None):
    """Trains nothing: counts to five in a file, from where the one before was."""

    def train(cell, claim):
        folder = claim.folder()
        folder.mkdir(exist_ok=True)
        done = folder / "steps"
        for step in range(len(done.read_text()) if done.exists() else 0, 5):
            time.sleep(seconds)
            claim.check()
            with done.open("a") as file:
                file.write(str(step))
        if log is not None:
            log.append(cell.id)
        return {"loss": 1.0 / cell.counts["params"] + int(done.read_text())}

    return train


def quiet(_):
    pass


def test_threads_share_the_work(tmp_path):
    """Each is a worker of its own; the lock of a file belongs to who opened it."""
    cells, ended = fakes(30), []

    def run():
        with claims.Worker(tmp_path) as worker:
            runner.work(tmp_path, cells, fake(0.0005, ended), worker, quiet, poll=0.01)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == sorted(cell.id for cell in cells)
    runs = cells_lib.gather(tmp_path, cells)
    assert len(runs) == 30 and {row["loss"] for row in runs.rows} == {1.0 / row["params"] + 1234 for row in runs.rows}
    assert {len(list(cell.folder(tmp_path).glob("claim.*"))) for cell in cells} == {1}


WORKER = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
from scaling.test_claims import fake, fakes, quiet
from taxonomy.scaling import claims, runner

train = fake(0.04)

def logged(cell, claim):
    result = train(cell, claim)
    with open(pathlib.Path(sys.argv[1]) / "ended", "a") as file:
        file.write(cell.id + "\\n")
    return result

with claims.Worker(sys.argv[1]) as worker:
    runner.work(sys.argv[1], fakes(12), logged, worker, quiet, poll=0.01)
"""


def test_killed_workers_lose_nothing(tmp_path):
    """Two processes are killed at random ten times; the cells end as those of an undisturbed one."""

    def start():
        return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(ROOT / "tests")], cwd=ROOT)

    generator, cells, kills = random.Random(0), fakes(12), 0
    workers = [start(), start()]
    try:
        while left := [cell for cell in cells if not (cell.folder(tmp_path) / RESULT).exists()]:
            time.sleep(generator.uniform(0, 0.05))
            place = generator.randrange(2)
            # Only one that has a cell in hand.
            busy = any(f"-{workers[place].pid}-" in claims.holder(cell.folder(tmp_path))[1] for cell in left)
            if kills < 10 and busy and workers[place].poll() is None:
                workers[place].send_signal(signal.SIGKILL)
                kills += 1
            if workers[place].poll() is not None:
                assert workers[place].wait() in (0, -signal.SIGKILL)
                workers[place] = start()
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    rows = cells_lib.gather(tmp_path, cells).rows
    assert {row["id"]: row["loss"] for row in rows} == {cell.id: 1.0 / cell.counts["params"] + 1234 for cell in cells}
    # A kill between the end of training and its result may repeat the last moment of a cell, and no more.
    ended = collections.Counter((tmp_path / "ended").read_text().split())
    assert set(ended) == {cell.id for cell in cells} and sum(ended.values()) <= 12 + kills
    assert kills


def test_a_worker_of_another_machine_is_dead_after_its_lease(tmp_path):
    (cell,) = fakes(1)
    place = cell.folder(tmp_path)
    with claims.Worker(tmp_path, lease=1000, boot="there") as other, claims.Worker(tmp_path, lease=5, boot="here") as worker:
        first = other.take(place, RESULT)
        assert first and worker.take(place, RESULT) is None
        os.utime(other.path, (time.time() - 6, time.time() - 6))
        second = worker.take(place, RESULT)
        assert second.number == 2
        # The one that only slept cannot write where the other works, nor end what is not its own.
        first.place.joinpath("run.1").mkdir()
        assert second.folder() == place / "run.2" and (place / "run.2").is_dir() and not (place / "run.1").exists()
        with pytest.raises(claims.Lost):
            first.check()
        assert not first.finish("{}") and second.finish("{}") and not second.finish("{}")
        assert worker.take(place, RESULT) is None and other.take(place, RESULT) is None


def test_a_claim_given_up_is_free_for_others(tmp_path):
    (cell,) = fakes(1)
    with claims.Worker(tmp_path) as one, claims.Worker(tmp_path) as two:
        claim = one.take(cell.folder(tmp_path), RESULT)
        claim.release()
        assert two.take(cell.folder(tmp_path), RESULT).number == 2
        with pytest.raises(claims.Lost):
            claim.check()


def test_one_failure_does_not_end_a_study(tmp_path):
    cells = fakes(5)

    def train(cell, claim):
        if cell.id == "cell0":
            raise Diverged("step 3: not finite")
        if cell.id == "cell1":
            raise ZeroDivisionError("nothing is divided by it")
        return {"loss": float("nan") if cell.id == "cell2" else 2.0, "seconds": 1.0}

    with claims.Worker(tmp_path) as worker:
        runner.work(tmp_path, cells, train, worker, quiet)
        runs = cells_lib.gather(tmp_path, cells)
        assert [row["id"] for row in runs.rows] == ["cell3", "cell4"]
        assert {one["id"]: one["reason"] for one in runs.reasons()} == {
            "cell0": "diverged: step 3: not finite",
            "cell1": "failed: ZeroDivisionError: nothing is divided by it",
            "cell2": "diverged: the loss is nan",
        }
        assert [state.what for state in states.states(tmp_path, cells)] == [
            "diverged",
            "failed",
            "diverged",
            "finished",
            "finished",
        ]
        # What failed is run again when that is asked for, and nothing else is, though its worker lives.
        assert runner.forget_failed(tmp_path, cells) == 1
        with claims.Worker(tmp_path) as other:
            runner.work(tmp_path, cells, lambda cell, claim: {"loss": 3.0}, other, quiet)
    assert [row["loss"] for row in cells_lib.gather(tmp_path, cells).rows] == [3.0, 2.0, 2.0]


def test_who_is_asked_to_stop_gives_up_its_claim(tmp_path):
    (cell,) = fakes(1)

    def train(cell, claim):
        raise Preempted("SIGTERM")

    with claims.Worker(tmp_path) as worker:
        with pytest.raises(Preempted):
            runner.work(tmp_path, [cell], train, worker, quiet)
        assert states.states(tmp_path, [cell])[0].what == "waiting"
        assert claims.holder(cell.folder(tmp_path)) == (1, "")


def test_a_running_cell_is_seen(tmp_path):
    cells = fakes(2)
    with claims.Worker(tmp_path) as worker:
        folder = worker.take(cells[0].folder(tmp_path), RESULT).folder()
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "loss": 3.5, "tokens_per_second": 10.0}) + '\n{"step": 3')
        found = states.states(tmp_path, cells)
        assert [(state.what, state.step, state.loss) for state in found] == [("running", 2, 3.5), ("waiting", 0, None)]
        # 60 and 100 tokens of 60 FLOPs at 600 FLOP/s.
        assert states.summary(found)["minutes_left"] == pytest.approx((3600 + 6000) / 600 / 60)
    assert states.states(tmp_path, cells)[0].said.startswith("its worker died")


def test_studies_are_kept(tmp_path):
    study, cells = Study(base="quickstart", axes={"model.position": ("rope", "alibi")}, budgets=(1e10, 2e10)), fakes(3)
    cells_lib.save(tmp_path, study, cells)
    assert cells_lib.read(tmp_path) == (study, cells)
    with pytest.raises(UserError, match="makes it"):
        cells_lib.read(tmp_path / "elsewhere")
