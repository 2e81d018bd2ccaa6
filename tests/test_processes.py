"""Several processes as one run: two of this machine, four simulated devices each, that meet, are killed, are stopped and go on."""

import json
import re
import shutil
import socket
import sys
import time

import jax
import numpy as np
import pytest
from training.commands import DRIVER, EIGHT, ROOT, commands, ended, log, one_line

from taxonomy import config as config_lib
from taxonomy.errors import HUNG, PREEMPTED
from taxonomy.training import checkpoints, loop

CLUSTER = ROOT / "launch" / "local_cluster.sh"
KILLED = 128 + 9
# Stands for Python in the launcher: the second process runs the driver, which kills or stops it before a step.
WRAPPER = """#!/bin/sh
case "$*" in
  *--process=1*) shift 2; exec {python} -c "$DRIVER" $ACTION "$@" ;;
  *) exec {python} "$@" ;;
esac
"""
# Restores an array over eight devices and says how much it read.
READER = """
import sys

from absl import flags

from taxonomy import distributed

distributed.define_flags()
flags.FLAGS(sys.argv[:1])
distributed.join()

import jax, tensorstore
from jax.sharding import NamedSharding, PartitionSpec

from taxonomy import sharding
from taxonomy.training.checkpoints import Checkpoints

place = NamedSharding(sharding.make_mesh("fsdp:8", jax.devices()), PartitionSpec(None, "fsdp"))
params, meta = Checkpoints(sys.argv[1]).restore_params(print, {"w": place})
(metric,) = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
print("read", metric["values"][0]["value"], params["w"].shape, meta["step"])
"""
# Stands for Python too: a process does what DO_0 or DO_1 says.
PUPPET = """#!/bin/sh
[ "$1" = -c ] && { echo 1; exit; }
for word; do case $word in --process=*) number=${word#*=} ;; esac; done
echo "$@"
eval "eval \\"\\$DO_$number\\""
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return commands(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def cluster(command, tmp_path_factory):
    """Runs a command as two processes; the second is killed or stopped by `action` before a step."""
    wrapper = tmp_path_factory.mktemp("wrapper") / "python"
    wrapper.write_text(WRAPPER.format(python=sys.executable))
    wrapper.chmod(0o755)

    def run(*flags, action=None):
        variables = {"PYTHON": sys.executable}
        if action:
            variables = {"PYTHON": str(wrapper), "DRIVER": DRIVER, "ACTION": action}
        started = time.monotonic()
        done = ended(command.start(CLUSTER, 2, 4, "--", *flags, "--heartbeat_seconds=30", program="bash", **variables))
        print(f"{time.monotonic() - started:.1f} s", done.returncode, done.stdout, done.stderr, sep="\n")
        return done

    return run


def config_of(command, changes):
    """What the flags of a command say, read in this process."""
    flags = dict(flag.removeprefix("--config.").split("=", 1) for flag in command.flags("none", changes)[2:])
    return config_lib.load_config("llama:tiny", flags)


def together(processes):
    """Processes that end together."""
    try:
        return [ended(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def assert_same_losses(found, expected, steps):
    """In training, and in the evaluation at the end."""
    values = [
        [line.get(key) for line in log(w) if line["step"] in steps for key in ("loss", "validation_loss")]
        for w in (found, expected)
    ]
    assert len(values[0]) == 2 * len(steps) and values[0][-1] is not None
    np.testing.assert_allclose(*(np.array(one, float) for one in values), rtol=1e-5)


def assert_same_params(found, expected):
    """Sums are added up in another order over processes."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def puppets(command, tmp_path):
    """Starts the launcher with two processes that do as they are told."""
    puppet = tmp_path / "puppet"
    puppet.write_text(PUPPET)
    puppet.chmod(0o755)

    def start(zero, one, *words):
        how = {"PYTHON": puppet, "DO_0": zero, "DO_1": one, "GRACE": 1}
        return command.start(CLUSTER, *(words or ("2", "4", "--", "--flag=a b")), program="bash", **how)

    return start


@pytest.mark.parametrize(
    ("zero", "one", "code"),
    [
        ("exit 0", "exit 0", 0),
        ("exit 0", "exit 3", 3),
        ("exit 42", "exit 42", 42),
        ("exit 134", "kill -KILL $$", KILLED),
        ("exit 2", "exec sleep 600", 2),
        ("exec sleep 600", "exit 134", 134),
    ],
)
def test_the_launcher_ends_as_the_process_that_failed(puppets, zero, one, code):
    done = ended(puppets(zero, one))
    assert done.returncode == code
    said = {f"[{i}] -m taxonomy.train --coordinator=127.0.0.1:1 --processes=2 --process={i} --flag=a b" for i in range(2)}
    assert set(done.stdout.splitlines()) == said


def test_the_launcher_passes_on_that_it_is_to_stop(puppets):
    until_asked = "trap 'echo asked; exit 42' TERM; echo ready; while :; do sleep 0.1; done"
    process = puppets(until_asked, until_asked, "2", "1", "--", "evaluate", "--workdir=x")
    lines = [process.stdout.readline() for _ in range(4)]
    assert sum("-m taxonomy.evaluate" in line for line in lines) == sum("ready" in line for line in lines) == 2
    process.terminate()
    done = ended(process)
    assert done.returncode == PREEMPTED and sorted(done.stdout.splitlines()) == ["[0] asked", "[1] asked"]


@pytest.mark.parametrize("words", [["2"], ["0", "4", "--", "--x"], ["2", "4", "--x", "y"], ["2", "4", "--", "describe"]])
def test_the_launcher_says_how_it_is_used(puppets, words):
    done = ended(puppets("exit 0", "exit 0", *words))
    assert done.returncode == 2 and done.stderr.startswith("launch/local_cluster.sh PROCESSES DEVICES -- [COMMAND] FLAGS...\n")


def test_two_processes_are_one_run(cluster, command, tmp_path, monkeypatch):
    """One is killed and the other ends too; both go on to the result of one process; then SIGTERM to one stops both."""
    monkeypatch.setenv("TAXONOMY_CACHE", str(command.cache))
    workdir, run = tmp_path / "run", {"mesh": EIGHT, "train.steps": 8, "evaluation.every": "8 steps"}
    kept = checkpoints.Checkpoints(workdir)

    killed = cluster(*command.flags(workdir, run), action=f"SIGKILL 6 {kept.folder}")
    assert killed.returncode == KILLED and kept.steps() == [4]
    assert "[0] error: process 0 of 2: another process was lost" in killed.stderr and "Traceback" not in killed.stderr

    # Now they find each other by what Slurm says.
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": free_port()}
    tasks = [slurm | {"SLURM_PROCID": i, "SLURM_LOCALID": i} for i in range(2)]
    words = ("-m", "taxonomy.train", *command.flags(workdir, run))
    first, second = together([command.start(*words, devices=4, **task) for task in tasks])
    print(first, second)
    assert first.returncode == second.returncode == 0
    # The first one speaks and writes for both.
    assert f"resumed from step 4 of {workdir}" in first.stdout and "step" not in second.stdout
    assert [line["step"] for line in log(workdir)] == list(range(1, 9))
    assert json.loads((workdir / "manifest.json").read_text())["processes"] == 2
    assert (workdir / "loss.png").is_file() and (workdir / "report.json").is_file()

    # One process with as many devices has the same result, from the beginning, and from a checkpoint of the two on another mesh.
    alone = loop.train(config_of(command, run), tmp_path / "alone")
    assert_same_losses(workdir, tmp_path / "alone", range(1, 9))
    assert_same_params(checkpoints.restore_params(workdir)[1], jax.tree.map(np.asarray, alone.state.params))
    shutil.copytree(workdir, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "8")
    loop.train(config_of(command, run | {"mesh": "fsdp:2,tensor:4"}), tmp_path / "other")
    assert_same_losses(tmp_path / "other", workdir, range(5, 9))

    # Or with a stage in each of the two.
    staged = cluster(*command.flags(tmp_path / "staged", run | {"mesh": "stage:2,fsdp:2,tensor:2"}))
    assert staged.returncode == 0
    assert_same_losses(tmp_path / "staged", workdir, range(1, 9))

    rare = {"evaluation.every": "1000000 steps", "checkpoint.every": "1000000 steps", "train.log_every": 100000}
    stopped = cluster(*command.flags(workdir, run | rare | {"train.steps": 1000000}), action=f"SIGTERM 10 {kept.folder}")
    assert stopped.returncode == PREEMPTED
    said = re.findall(r"^\[(\d)\] error: process \1 of 2: SIGTERM: saved step (\d+) to", stopped.stderr, re.MULTILINE)
    last = kept.steps()[-1]
    assert sorted(said) == [("0", str(last)), ("1", str(last))] and last >= 10


def test_a_process_reads_its_own_shards_alone(command, tmp_path, monkeypatch):
    """Whatever device wrote the array. Its checksum, of both parts, is right."""
    monkeypatch.setattr(checkpoints, "CHUNK", 2**18)
    array = np.random.default_rng(0).standard_normal((1024, 4096), np.float32)
    saved = checkpoints.Checkpoints(tmp_path, asynchronous=False)
    saved.save(3, {"params": {"w": jax.numpy.asarray(array)}}, {"config": {}})
    saved.close()
    where = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    done = together([command.start("-c", READER, tmp_path, devices=4, **where, JAX_PROCESS_ID=str(i)) for i in range(2)])
    for one in done:
        (line,) = (line for line in one.stdout.splitlines() if line.startswith("read "))
        assert line.endswith("(1024, 4096) 3") and one.returncode == 0, one
        assert 0.3 < int(line.split()[1]) / array.nbytes < 0.7


PORT = "--coordinator=127.0.0.1:1"
MISTAKES = {
    "one flag": ([PORT], "--coordinator: given without --processes (or JAX_NUM_PROCESSES) and --process (or JAX_PROCESS_ID)"),
    "two flags": (["--processes=2", "--process=0"], "--processes: given without --coordinator (or JAX_COORDINATOR_ADDRESS)"),
    "out of range": ([PORT, "--processes=2", "--process=2"], "--process: allowed are 0 to 1 with --processes=2, got 2"),
    "no port": (["--coordinator=here", "--processes=2", "--process=0"], "--coordinator: expected HOST:PORT, such as"),
}


@pytest.mark.parametrize(("flags", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(command, tmp_path, flags, said):
    done = command.run("-m", "taxonomy.train", *command.flags(tmp_path / "never"), *flags)
    assert done.returncode == 2 and said in one_line(done)
    assert not (tmp_path / "never").exists()


def test_who_finds_nobody_says_so(command, tmp_path):
    """With the exit code of what is tried again: others may only be late."""
    flags = [*command.flags(tmp_path / "never"), PORT, "--processes=2", "--process=1", "--join_seconds=2"]
    done = command.run("-m", "taxonomy.train", *flags)
    assert done.returncode == HUNG and "--coordinator: the 2 processes did not all meet at 127.0.0.1:1 within 2 s" in one_line(done)
