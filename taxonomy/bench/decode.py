"""Generation against transformers': python -m taxonomy.bench decode --cores=2 --steps=1"""

import statistics

from absl import flags

from taxonomy import spec
from taxonomy.bench.contenders import BATCHES, CORES, NEW_TOKENS, ROUNDS, Contender, say
from taxonomy.errors import UserError

_SIZE = flags.DEFINE_enum("size", "124m", ("124m", "tiny"), "Size of the model that writes.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 32, "Tokens of a prompt.")
_MODULE = "taxonomy.interop.decode_peers"
_OURS, _PEER = ("float32", "bfloat16"), "transformers"


def benchmark() -> dict:
    """Tokens written per second by batch and contender, and how near to what reading the memory allows."""
    for batch in BATCHES.value:
        if not batch.isdigit() or int(batch) < 1:
            raise UserError(f"--batches: expected numbers of at least 1, got {batch!r}")
    for flag in (_PROMPT, NEW_TOKENS):
        if flag.value < 1:
            raise UserError(f"--{flag.name}: must be at least 1, got {flag.value}")
    result = {"size": _SIZE.value, "prompt_tokens": _PROMPT.value, "new_tokens": NEW_TOKENS.value}
    result |= {"cores": CORES.value, "rounds": ROUNDS.value}
    return result | {f"batch {batch}": _compared(batch) for batch in BATCHES.value}


def _compared(batch: str) -> dict:
    from taxonomy.interop import decode_peers

    runners = {}
    try:
        for kind in (*_OURS, _PEER, "memory"):
            say(f"batch {batch}: starting {kind}")
            runners[kind] = Contender(_MODULE, (_SIZE.value, batch, str(_PROMPT.value), str(NEW_TOKENS.value), kind))
        for turn in range(ROUNDS.value):
            say(f"batch {batch}: round {turn + 1} of {ROUNDS.value}")
            for kind, runner in runners.items():
                runner.turn("read" if kind == "memory" else "decode")
    finally:
        for runner in runners.values():
            runner.close()
    seconds = {kind: runner.seconds["read" if kind == "memory" else "decode"] for kind, runner in runners.items()}
    model = spec.model(decode_peers.our_config(_SIZE.value).model)
    reads = {dtype: step_bytes(model, int(batch), _PROMPT.value, NEW_TOKENS.value, dtype) for dtype in _OURS}
    return figures(seconds, int(batch) * NEW_TOKENS.value, NEW_TOKENS.value, reads, decode_peers.BYTES)


def step_bytes(model: spec.Model, batch: int, prompt: int, new: int, dtype: str) -> float:
    """Bytes that one step for all rows cannot avoid to read, averaged over the steps.

    Every parameter once, but of a table of positions, of which a row reads one; and the keys and values of the tokens before.
    """
    from taxonomy.scaling import accounting

    counted = accounting.count(model)
    tables = sum(declared.value.size for _, declared in accounting.declarations(model) if declared.role == "position")
    kept = counted.kv_cache_bytes_per_token / 2  # numbers: accounting says bytes of bfloat16
    return {"float32": 4, "bfloat16": 2}[dtype] * (counted.parameters - tables + batch * kept * (prompt + (new - 1) / 2))


def figures(seconds: dict[str, list[float]], tokens: int, steps: int, reads: dict[str, float], read: int) -> dict:
    """What is printed. `seconds` of each turn, `tokens` and `steps` of one; bytes that a step `reads` and that "memory" read."""
    speed = {kind: tokens / statistics.median(turns) for kind, turns in seconds.items() if kind != "memory"}
    bandwidth = read / min(seconds["memory"])  # a bound: what disturbed other readings is none of it
    ratios = {
        kind: statistics.median(peer / own for peer, own in zip(seconds[_PEER], seconds[kind], strict=True)) for kind in _OURS
    }
    bounds = {kind: tokens / steps * bandwidth / of_step for kind, of_step in reads.items()}
    bounds[_PEER] = bounds["float32"]
    return {
        "tokens_per_second": {kind: round(value, 2) for kind, value in speed.items()},
        "ratio_to_transformers": {kind: round(value, 3) for kind, value in ratios.items()},
        "memory_gigabytes_per_second": round(bandwidth / 1e9, 2),
        "megabytes_of_a_step": {kind: round(value / 1e6, 1) for kind, value in reads.items()},
        "share_of_memory_bound": {kind: round(value / bounds[kind], 3) for kind, value in speed.items()},
    }
