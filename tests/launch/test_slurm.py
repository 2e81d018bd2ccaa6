"""The Slurm script, with srun, squeue and scontrol that only write down how they were called."""

import os
import re
import subprocess

import pytest

from taxonomy import errors

from . import common

SCRIPT = common.LAUNCH / "train.sbatch"


def submit(desk, code: int, restarts: int = 0, state: str = "RUNNING", **variables: str) -> subprocess.CompletedProcess:
    desk.fake("srun", f"sys.exit({code})")
    desk.fake("squeue", f"print({state!r})")
    desk.fake("scontrol")
    slurm = {"SLURM_JOB_ID": "17", **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})}
    environment = {"PATH": f"{desk.bin}:{os.environ['PATH']}", **slurm, **variables}
    return subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "code, restarts, again",
    [
        (0, 0, False),
        (errors.BAD_INPUT, 0, False),
        (errors.DIVERGED, 0, False),
        (errors.NO_CHECKPOINT, 0, False),
        (errors.PREEMPTED, 0, True),
        (errors.PREEMPTED, 1000, True),
        (errors.HUNG, 0, True),
        (1, 9, True),
        (1, 10, False),
        (137, 3, True),
    ],
)
def test_exit_codes_drive_requeueing(desk, code, restarts, again):
    done = submit(desk, code, restarts)
    assert done.returncode == code
    assert desk.calls("scontrol") == ([["requeue", "17"]] if again else [])
    assert desk.calls("srun") == [["--kill-on-bad-exit=1", "python", "launch/start.py"]]


def test_a_cancelled_job_stays_cancelled(desk):
    assert submit(desk, errors.PREEMPTED, state="COMPLETING").returncode == errors.PREEMPTED
    assert desk.calls("scontrol") == []


def test_how_many_restarts_is_a_parameter(desk):
    submit(desk, 1, restarts=2, RETRIES="2")
    assert desk.calls("scontrol") == []


def test_the_signal_comes_to_the_tasks_in_time():
    """Without `B:`, which would send it to the script alone; and the job may be queued again."""
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE))
    assert re.fullmatch(r"TERM@\d+", asked["signal"]) and "requeue" in asked and asked["open-mode"] == "append"
