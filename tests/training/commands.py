"""Commands as a user starts them: a process each, on a small text, with a cache of their own."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax

ROOT = pathlib.Path(__file__).parent.parent.parent
SENTENCE = "the model reads a line of text and says what comes next until it is told to stop or the page ends"
# A run of 24 steps with all that has to survive a stop: dropout, accumulation, a schedule, evaluations.
STEPS = 24
RUN = {
    "model.embedding": "table(dropout=0.1)",
    "data.tokenizer": "bytes()",
    "train.steps": STEPS,
    "train.batch_tokens": 512,
    "train.microbatch_tokens": 256,
    "train.schedule": "constant(peak=3e-3, warmup='4 steps')",
    "train.log_every": 1,
    "evaluation.every": "8 steps",
    "evaluation.batch_tokens": 512,
    "checkpoint.every": "4 steps",
    "report.new_tokens": 0,
}
# Eight devices in the tests that are not about which; the same everywhere, so that it is compiled once.
EIGHT = "fsdp:4,tensor:2"
# Runs a command and acts on its own process: before a step, or as soon as a checkpoint's partial folder is there.
DRIVER = """
import os, pathlib, runpy, signal, sys, threading, time

action, step, checkpoints = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
sys.argv = ["taxonomy.train", *sys.argv[4:]]

def watch():
    while not any(checkpoints.glob(f"{step}.*tmp*")):
        time.sleep(1e-4)
    os.kill(os.getpid(), signal.SIGKILL)

if action == "saving":
    threading.Thread(target=watch, daemon=True).start()
else:
    from taxonomy.training.step import Trainer
    update = Trainer.step

    def stopped(self, state, *rest):
        if int(state.step) + 1 == step:
            os.kill(os.getpid(), signal.Signals[action])
        return update(self, state, *rest)

    Trainer.step = stopped
runpy.run_module("taxonomy.train", run_name="__main__")
"""


@functools.cache
def corpus(base: pathlib.Path) -> pathlib.Path:
    """Twelve small documents, the same everywhere."""
    folder, words = base / "corpus-of-commands", SENTENCE.split()
    folder.mkdir()
    for number in range(12):
        chosen = [words[(number * 7 + i * i) % len(words)] for i in range(260)]
        (folder / f"{number}.txt").write_text(" ".join(chosen) + "\n")
    return folder


class Commands:
    """Starts commands. `flags` are the run above over a tiny model, with changes."""

    def __init__(self, base: pathlib.Path):
        self.corpus, self.cache = corpus(base), base / "cache-of-commands"

    def flags(self, workdir, changes=(), page="configs/llama.py:tiny") -> list[str]:
        overrides = {"data.source": f"text(glob='{self.corpus}/*.txt')", **RUN, **dict(changes)}
        return [f"--config={page}", f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in overrides.items())]

    def start(self, *arguments, devices: int = 1, program=sys.executable, **variables) -> subprocess.Popen:
        """A process, of Python if nothing else is said, on simulated devices that shares the tests' compilation cache."""
        environment = {
            **os.environ,
            "TAXONOMY_CACHE": str(self.cache),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            **{name: str(value) for name, value in variables.items()},
        }
        words = [str(program), *map(str, arguments)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)

    def run(self, *arguments, devices: int = 1, **how) -> subprocess.CompletedProcess:
        return ended(self.start(*arguments, devices=devices, **how))

    def train(self, workdir, changes=(), devices: int = 1, extra=()) -> subprocess.CompletedProcess:
        return self.run("-m", "taxonomy.train", *self.flags(workdir, changes), *extra, devices=devices)

    def interrupted(self, action: str, step: int, workdir) -> subprocess.CompletedProcess:
        """A run that kills or stops itself: SIGKILL or SIGTERM before a step, or "saving" while the step is being saved."""
        return self.run("-c", DRIVER, action, step, workdir / "checkpoints", *self.flags(workdir))


def ended(process: subprocess.Popen, seconds: float = 300) -> subprocess.CompletedProcess:
    """What a process said until its end; it is killed when that does not come."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@functools.cache
def commands(base: pathlib.Path) -> Commands:
    """Those of a session, by its folder."""
    return Commands(base)


@functools.cache
def uninterrupted(base: pathlib.Path) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """The workdir and the output of the run above, made once a session."""
    workdir = base / "whole-run"
    return workdir, commands(base).train(workdir)


def log(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def reproducible(workdir) -> list[dict]:
    """The lines of the log without what a clock measured."""
    clocked = ("seconds", "tokens_per_second", "mfu")
    return [{key: value for key, value in line.items() if key not in clocked} for line in log(workdir)]


def digests(workdir, step: int) -> dict[str, str]:
    """Of every array of a checkpoint: parameters, optimizer, random key."""
    return json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())["checksums"]


def cut_arrays(workdir, step: int) -> None:
    """Damages a checkpoint: its files of arrays end in the middle."""
    files = [p for p in (workdir / "checkpoints" / str(step)).glob("state/**/d/*") if p.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def quiet(done: subprocess.CompletedProcess) -> bool:
    """Whether a command ended well and had nothing to complain about (a first plot may tell that fonts are looked up)."""
    said = [line for line in done.stderr.splitlines() if "font cache" not in line]
    return (done.returncode, said) == (0, [])


def one_line(done: subprocess.CompletedProcess) -> str:
    """The error of a command, which is one line on stderr and no traceback."""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()
