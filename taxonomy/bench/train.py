"""Training steps against other people's: python -m taxonomy.bench train"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from taxonomy.bench.contenders import CORES, ROUNDS, Contender, best_environment, on_cores, say
from taxonomy.errors import UserError, nearest

_FAMILIES = flags.DEFINE_list("families", None, "Shapes to compare; all by default.")
_COMPILE = flags.DEFINE_bool("compile_time", True, "Also compare the compile time of 48 scanned layers with that of 2.")
_PEERS = "taxonomy.interop.peers"


def benchmark() -> dict:
    """Training steps of every shape: ours, torch as installed, torch at its best; and seconds to compile."""
    from taxonomy.interop import peers

    families = _FAMILIES.value or list(peers.SHAPES)
    for family in families:
        if family not in peers.SHAPES:
            raise UserError(f"--families: unknown shape '{family}'{nearest(family, peers.SHAPES)}")
    result = {"shape": {k.lower(): getattr(peers, k) for k in ("LAYERS", "D_MODEL", "HEADS", "VOCAB", "CONTEXT", "BATCH")}}
    result |= {"cores": CORES.value, "rounds": ROUNDS.value}
    tokens = peers.BATCH * peers.CONTEXT
    with tempfile.TemporaryDirectory() as folder:
        environment, result["torch_at_its_best"] = best_environment(pathlib.Path(folder))
        for family in families:
            runners = {}
            try:
                for kind in peers.CONTENDERS:
                    say(f"{family}: starting {kind}")
                    runners[kind] = Contender(_PEERS, (family, kind))
                    if kind != "ours":
                        runners[f"{kind} at its best"] = Contender(_PEERS, (family, kind), environment)
                for turn in range(ROUNDS.value):
                    say(f"{family}: round {turn + 1} of {ROUNDS.value}")
                    for runner in runners.values():
                        runner.turn("train")
            finally:
                for runner in runners.values():
                    runner.close()
            result[family] = _compare(runners, tokens, family)
    if _COMPILE.value:
        say("compile times")
        result["compile_seconds"] = compile_times(families[0])
    return result


def _compare(runners: dict[str, Contender], tokens: int, family: str) -> dict:
    from taxonomy.interop import peers
    from taxonomy.scaling.accounting import train_flops_per_token

    speed = {name: tokens / statistics.median(r.seconds["train"]) for name, r in runners.items()}
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
    return float(subprocess.run([*on_cores(), sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


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
