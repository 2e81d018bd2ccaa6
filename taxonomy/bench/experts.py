"""One layer of experts against itself and others: python -m taxonomy.bench experts"""

import statistics
from collections.abc import Sequence

from absl import flags

from taxonomy.bench.contenders import CORES, ROUNDS, Contender, say
from taxonomy.errors import UserError

_TOKENS = flags.DEFINE_list("tokens", ["2048", "8192"], "Tokens of a step; others than we are compared at the first number.")
_MODULE = "taxonomy.interop.expert_peers"
_FEW, _MANY = "8", "64"
# Number of experts and how they are computed, at the same active parameters; a number is a capacity factor.
_OURS = (_FEW, "blocks"), (_MANY, "blocks"), (_MANY, "1.25"), (_MANY, "2.0")
_OTHERS = (_FEW, "ragged"), (_MANY, "einsum"), (_FEW, "eager"), (_MANY, "eager")


def benchmark() -> dict:
    """Milliseconds of a step by tokens, experts and implementation, and the ratios that matter."""
    from taxonomy.interop import expert_peers

    for tokens in _TOKENS.value:
        if not tokens.isdigit() or int(tokens) < 1 or int(tokens) % expert_peers.TIME:
            raise UserError(f"--tokens: expected multiples of {expert_peers.TIME}, got {tokens!r}")
    result = {"shape": {k.lower(): getattr(expert_peers, k) for k in ("D_MODEL", "D_FF", "TOP_K", "TIME")}}
    result |= {"cores": CORES.value, "rounds": ROUNDS.value}
    for i, tokens in enumerate(_TOKENS.value):
        result[f"{tokens} tokens"] = _compared(tokens, _OURS if i else _OURS + _OTHERS)
    return result


def _compared(tokens: str, contenders: Sequence[tuple[str, str]]) -> dict:
    runners = {}
    try:
        for contender in contenders:
            say(f"{tokens} tokens: starting {' '.join(contender)}")
            runners[contender] = Contender(_MODULE, (tokens, *contender))
        for turn in range(ROUNDS.value):
            say(f"{tokens} tokens: round {turn + 1} of {ROUNDS.value}")
            for runner in runners.values():
                for step in ("forward", "train"):
                    runner.turn(step)
    finally:
        for runner in runners.values():
            runner.close()
    return {
        step: _figures({key: statistics.median(r.seconds[step]) for key, r in runners.items()}) for step in ("forward", "train")
    }


def _figures(seconds: dict[tuple[str, str], float]) -> dict:
    ours = {experts: seconds[experts, "blocks"] for experts in (_FEW, _MANY)}
    return {
        "milliseconds": {" ".join(key): round(1e3 * value, 1) for key, value in seconds.items()},
        "growth_from_8_to_64_experts": round(ours[_MANY] / ours[_FEW], 3),
        "speed_to_capacity_at_64": {factor: round(seconds[_MANY, factor] / ours[_MANY], 3) for factor in ("1.25", "2.0")},
        "speed_to_einsum": {e: round(seconds[e, how] / ours[e], 3) for e, how in seconds if how == "einsum"},
        "speed_to_transformers": {e: round(seconds[e, how] / ours[e], 3) for e, how in seconds if how == "eager"},
    }
