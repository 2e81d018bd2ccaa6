"""Contenders of a benchmark: they keep a process each and take turns, so that a busy machine slows all of them alike."""

import ctypes.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from taxonomy.errors import UserError

ROUNDS = flags.DEFINE_integer("rounds", 8, "Turns of each contender.")
STEPS = flags.DEFINE_integer("steps", 4, "Steps of one turn.")
CORES = flags.DEFINE_integer("cores", 1, "Cores of each contender.")
BATCHES = flags.DEFINE_list("batches", ["1", "8"], "Rows that are written side by side.")
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 128, "Tokens written after each prompt.")


def on_cores() -> list[str]:
    """What to put before a command so that it keeps to as many cores as a contender has."""
    return ["taskset", "-c", f"0-{CORES.value - 1}"] if shutil.which("taskset") else []


class Contender:
    """A process that takes steps when told: a module that calls `interop.peers.serve`."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str] | None = None):
        command = [*on_cores(), sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.seconds: dict[str, list[float]] = {}
        self.ready = json.loads(self._answer())["ready"]

    def turn(self, what: str) -> None:
        """Times the steps of one turn, of a kind that the process knows."""
        self._process.stdin.write(f"{what} {STEPS.value}\n")
        self._process.stdin.flush()
        self.seconds.setdefault(what, []).append(float(self._answer()) / STEPS.value)

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"bench: {' '.join(self._process.args)} ended early; are torch and transformers installed ('.[test]')?")
        return line

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def best_environment(folder: pathlib.Path) -> tuple[dict[str, str], list[str]]:
    """Environment in which torch is at its best on this machine, and what it consists of."""
    preload, parts = [], ["fused AdamW"]
    if shutil.which("cc") and "AMD" in pathlib.Path("/proc/cpuinfo").read_text():
        # MKL takes its AVX-512 path only where it believes to be on its maker's processor.
        source, library = folder / "shim.c", folder / "shim.so"
        source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        preload.append(str(library))
        parts.append("MKL on its fast path")
    for name in ("tcmalloc_minimal", "tcmalloc"):
        if found := ctypes.util.find_library(name):
            preload.append(found)
            parts.append("tcmalloc")
            break
    return {"LD_PRELOAD": ":".join(preload), "PEER_FUSED": "1"}, parts


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
