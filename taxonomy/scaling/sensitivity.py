"""What a fit would say otherwise: under other count rules, other deltas, and without each budget."""

import dataclasses
from typing import Any

import numpy as np

from taxonomy.scaling import budgets, robust
from taxonomy.scaling.results import Runs

DELTAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FURTHER = 100.0  # times the largest budget: where N* is compared


def table(runs: Runs, method: Any, parameters: dict[str, float], options: Any) -> list[dict[str, Any]]:
    """One line for each change: parameters, exponents and N* at a hundred times the largest budget. The first is the fit."""
    flops = FURTHER * float(runs.flops.max())
    lines = [line("as fitted", method, parameters, flops)]
    delta = options.delta if options.delta is not None else method.delta
    law = method.law(runs, options)
    start = law.point(parameters)[None]
    if np.isfinite(delta):
        deltas = [one for one in DELTAS if not np.isclose(one, delta)]
        points, _ = robust.refit(law, np.ones((len(deltas), len(runs))), start, np.array(deltas))
        lines += [line(f"delta {one:g}", method, _row(law, points, k), flops) for k, one in enumerate(deltas)]
    index, values = budgets.group(runs, options.budgets)
    places = [place for place in range(len(values)) if 0 < (index == place).sum() < len(runs) - len(law.names)]
    if len(places) > 1:
        weights = np.array([(index != place).astype(float) for place in places])
        points, _ = robust.refit(law, weights, start, delta)
        counts = [int((index == place).sum()) for place in places]
        names = [f"without {values[p]:.2g} FLOPs ({n} run{'s' * (n > 1)})" for p, n in zip(places, counts, strict=True)]
        lines += [line(name, method, _row(law, points, k), flops) for k, name in enumerate(names)]
    return lines + _counts(runs, method, options, delta, flops)


def _counts(runs: Runs, method: Any, options: Any, delta: float, flops: float) -> list[dict[str, Any]]:
    lines = []
    for name in runs.counts("params"):
        if name != options.params and (runs.column(name) != runs.params).any():
            others = dataclasses.replace(options, params=name)
            law = method.law(runs.counted(params=name), others)
            lines.append(line(f"count {name}", method, _row(law, robust.fit(law, delta).point_P[None], 0), flops))
    return lines


def _row(law: robust.Law, point_BP: np.ndarray, row: int) -> dict[str, float]:
    return {name: float(value[row]) for name, value in law.parameters(point_BP).items()}


def line(change: str, method: Any, parameters: dict[str, float], flops: float) -> dict[str, Any]:
    """What a fit says: its parameters, exponents and N* at these FLOPs."""
    exponents = {name: float(value) for name, value in method.exponents(parameters).items()}
    params = float(method.optimum(parameters, flops)[0])
    return {"change": change, "parameters": parameters, "exponents": exponents, "flops": flops, "params": params}
