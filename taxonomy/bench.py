"""Benchmarks against a peer in the same run: python -m taxonomy.bench train

Contenders keep a process each and take turns, so that a busy machine slows all of them alike. Prints JSON.
"""

import ctypes.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from taxonomy import cli
from taxonomy.errors import UserError, nearest

_ROUNDS = flags.DEFINE_integer("rounds", 8, "Turns of each contender.")
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of one turn.")
_CORES = flags.DEFINE_integer("cores", 1, "Cores of each contender.")
_FAMILIES = flags.DEFINE_list("families", None, "Shapes to compare; all by default.")
_COMPILE = flags.DEFINE_bool("compile_time", True, "Also compare the compile time of 48 scanned layers with that of 2.")


class Contender:
    """A process that takes steps when told."""

    def __init__(self, family: str, kind: str, environment: dict[str, str], cores: int):
        command = ["taskset", "-c", f"0-{cores - 1}"] if shutil.which("taskset") else []
        command += [sys.executable, "-m", "taxonomy.interop.peers", family, kind]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        self.seconds: list[float] = []
        self.ready = json.loads(self._answer())["ready"]

    def turn(self, steps: int) -> None:
        """Times `steps` steps."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._answer()) / steps)

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


def train_benchmark(families: list[str]) -> dict:
    """Training steps of every shape: ours, torch as installed, torch at its best."""
    from taxonomy.interop import peers

    result = {"shape": {k.lower(): getattr(peers, k) for k in ("LAYERS", "D_MODEL", "HEADS", "VOCAB", "CONTEXT", "BATCH")}}
    result |= {"cores": _CORES.value, "rounds": _ROUNDS.value}
    tokens = peers.BATCH * peers.CONTEXT
    with tempfile.TemporaryDirectory() as folder:
        environment, result["torch_at_its_best"] = best_environment(pathlib.Path(folder))
        for family in families:
            runners = {}
            try:
                for kind in peers.CONTENDERS:
                    _say(f"{family}: starting {kind}")
                    runners[kind] = Contender(family, kind, {}, _CORES.value)
                    if kind != "ours":
                        runners[f"{kind} at its best"] = Contender(family, kind, environment, _CORES.value)
                for turn in range(_ROUNDS.value):
                    _say(f"{family}: round {turn + 1} of {_ROUNDS.value}")
                    for runner in runners.values():
                        runner.turn(_STEPS.value)
            finally:
                for runner in runners.values():
                    runner.close()
            result[family] = _compare(runners, tokens, family)
    return result


def _compare(runners: dict[str, Contender], tokens: int, family: str) -> dict:
    from taxonomy.interop import peers
    from taxonomy.scaling.accounting import train_flops_per_token

    speed = {name: tokens / statistics.median(r.seconds) for name, r in runners.items()}
    installed = max(v for k, v in speed.items() if k in ("eager", "compiled"))
    best = max(v for k, v in speed.items() if k != "ours")
    flops = train_flops_per_token(peers.our_config(family).model.to_dict())
    return {
        "tokens_per_second": {k: round(v, 1) for k, v in speed.items()},
        "ratio_to_torch_as_installed": round(speed["ours"] / installed, 3),
        "ratio_to_torch_at_its_best": round(speed["ours"] / best, 3),
        "share_of_matmul_peak": round(speed["ours"] * flops / _matmul_peak(), 3),
        "seconds_to_first_step": {k: round(r.ready, 1) for k, r in runners.items()},
    }


def _matmul_peak() -> float:
    """FLOP/s of a float32 matrix product in XLA on the cores of one contender."""
    code = "from taxonomy.training.metrics import measured_matmul_flops as m; print(m(seconds=1.0))"
    command = ["taskset", "-c", f"0-{_CORES.value - 1}"] if shutil.which("taskset") else []
    return float(subprocess.run([*command, sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def compile_times(family: str) -> dict[str, float]:
    """Seconds to trace, lower and compile the scanned step for 2 and for 48 layers."""
    import jax
    import jax.numpy as jnp

    from taxonomy import registry, sharding
    from taxonomy.interop import peers
    from taxonomy.model import build
    from taxonomy.training.step import Trainer

    seconds = {}
    shape = jax.ShapeDtypeStruct((peers.BATCH, peers.CONTEXT), jnp.int32)
    for layers in (2, 48, 2, 48):  # the second pair counts: the first one pays for imports
        optimizer = registry.create("optimizer", "adamw", "bench")
        trainer = Trainer(build(peers.our_config(family, layers).model), optimizer, sharding.make_mesh("data:1", jax.devices()[:1]))
        before = time.perf_counter()
        trainer.lower({k: shape for k in ("tokens", "targets", "positions", "segments")}).compile()
        seconds[f"{layers} layers"] = round(time.perf_counter() - before, 2)
    return {**seconds, "ratio": round(seconds["48 layers"] / seconds["2 layers"], 2)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    from taxonomy.interop import peers

    if argv[1:] != ["train"]:
        raise UserError(f"bench: expected 'train', got {' '.join(argv[1:]) or 'nothing'}")
    families = _FAMILIES.value or list(peers.SHAPES)
    for family in families:
        if family not in peers.SHAPES:
            raise UserError(f"--families: unknown shape '{family}'{nearest(family, peers.SHAPES)}")
    result = train_benchmark(families)
    if _COMPILE.value:
        _say("compile times")
        result["compile_seconds"] = compile_times(families[0])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    cli.run(main)
