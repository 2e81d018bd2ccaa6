"""What a study will cost and how much it will say, before anything is trained.

The intervals are simulated: losses of the planned cells under an expected law, each with the deviation of a single run, are fitted
as the study's own will be, many times. They are a lower bound, for they take the law to be exact.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taxonomy.scaling import isoflop, parametric, robust
from taxonomy.scaling.cells import Cell
from taxonomy.scaling.results import Runs
from taxonomy.scaling.shown import number
from taxonomy.scaling.study import Study

_EDGE = 1.25  # a minimum this near to the first or the last size is at the edge
_SHARE, _STEP_SECONDS = 0.5, 1e-3
_BEYOND = 10.0  # times the largest budget, where nothing is held out


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast cells run: FLOP/s, where that is known from, and the seconds that a step takes besides."""

    flops: float
    source: str
    step: float = 0.0

    def minutes(self, cell: Cell) -> float:
        return (cell.counts["flops_exact"] / self.flops + cell.counts["steps"] * self.step) / 60


def measured(rows: Sequence[Mapping[str, Any]]) -> Speed | None:
    """The median of the runs that there are."""
    speeds = [row["tokens_per_second"] * row["flops_exact"] / row["tokens"] for row in rows if "tokens_per_second" in row]
    return Speed(statistics.median(speeds), f"{len(speeds)} finished runs") if speeds else None


def guessed() -> Speed:
    """Of the processor here: small models reach about half of what a matrix product does, and a step has a cost of its own."""
    from taxonomy.training import metrics

    return Speed(_SHARE * metrics.measured_matmul_flops(), "a guess for this machine's processor", _STEP_SECONDS)


def corpus(planned: Sequence[Cell]) -> int | None:
    """Tokens of the training text of the cells, if it has been prepared before."""
    from taxonomy import config as config_lib
    from taxonomy.training import loop

    found = {json.dumps(cell.config["data"]): cell for cell in planned if not cell.left_out}
    sizes = [loop.prepared_tokens(config_lib.from_json(json.dumps(cell.config))) for cell in found.values()]
    return None if None in sizes else min(sizes, default=None)


def warnings(study: Study, planned: Sequence[Cell], corpus: float | None, law: Mapping[str, float]) -> list[str]:
    """What is likely to be wrong with the plan."""
    cells = [cell for cell in planned if not cell.left_out]
    left = [cell for cell in planned if cell.left_out]
    found = [f"{len(left)} of {len(planned)} cells are left out, the first {left[0].id}: {left[0].left_out}"] if left else []
    found += _repeated(study, cells, corpus)
    fitted = [cell for cell in cells if not cell.holdout]
    for flops in study.budgets:
        found += _curve(flops, [cell for cell in fitted if cell.budget == flops], law)
    for flops in study.holdout:
        if not any(cell.budget == flops for cell in cells):
            found.append(f"{number(flops)} FLOPs: nothing is left of what is held out")
    if study.budgets and len(study.budgets) < 3:
        found.append(f"{len(study.budgets)} budgets: an exponent needs at least 3, and 5 halve its interval")
    if study.budgets and len(fitted) < 2 * len(parametric.Parametric.names):
        found.append(f"{len(fitted)} runs for {len(parametric.Parametric.names)} parameters: the intervals say little")
    return found


def _repeated(study: Study, cells: Sequence[Cell], corpus: float | None) -> list[str]:
    if corpus is None:
        return ["the size of the training text is not known before the first run: repeated data is not looked for"]
    most = max(cells, key=lambda cell: cell.counts["tokens"], default=None)
    over = [cell for cell in cells if cell.counts["tokens"] > study.most_epochs * corpus]
    if not over:
        return []
    epochs = most.counts["tokens"] / corpus
    said = f"{len(over)} cells see their data more than {study.most_epochs:g} times, {most.id} {epochs:.3g} times"
    return [f"{said}: the text has {number(corpus)} tokens"]


def _curve(flops: float, cells: Sequence[Cell], law: Mapping[str, float]) -> list[str]:
    """Of one budget: what its parabola will be warned of if the law holds, and a minimum at the first or the last size."""
    rows = [{"id": cell.id, **cell.counts, "flops": flops} for cell in cells]
    runs = Runs(tuple(row | {"loss": float(parametric.loss(law, row["params"], row["tokens"]))} for row in rows))
    if len(runs) < 3:
        return [f"{number(flops)} FLOPs: {len(runs)} cells, a parabola needs 3 sizes"]
    ((curve,), _) = isoflop.curves(runs, [flops])
    sizes = curve.params_M
    if curve.reason:
        return [f"{number(flops)} FLOPs: expected: {curve.reason}"]
    found = [f"expected: {warning}" for warning in curve.warnings]
    if not _EDGE * sizes.min() <= curve.params <= sizes.max() / _EDGE:
        span = f"{number(sizes.min())} to {number(sizes.max())}"
        found.append(f"{number(flops)} FLOPs: the optimum is expected at the edge, {number(curve.params)} parameters of {span}")
    return found


def intervals(
    study: Study, planned: Sequence[Cell], law: Mapping[str, float], scatter: float, draws: int = 400, seed: int = 0
) -> dict[str, Any] | None:
    """What 95% of the answers are within: the exponent of N*, N*, and the loss at the true N* and D*.

    The last two are at the largest held-out budget, or ten times beyond all. None where there are too few cells for the law, or no
    budgets to compare.
    """
    cells = [cell for cell in planned if not cell.left_out and not cell.holdout] if study.budgets else []
    shape = {(cell.counts["params"], cell.counts["tokens"]) for cell in cells}
    if len(shape) <= len(parametric.Parametric.names):
        return None
    params, tokens = (np.array([cell.counts[name] for cell in cells], float) for name in ("params", "tokens"))
    exact = np.log(parametric.loss(law, params, tokens))
    base = parametric.Parametric(np.log(params), np.log(tokens), exact)
    noise_BR = scatter * np.random.default_rng(seed).standard_normal((draws, len(cells)))
    points, _ = robust.refit(base, np.ones_like(noise_BR), base.point(law)[None], log_loss_BR=exact + noise_BR)
    samples = base.parameters(points)
    far = max(study.holdout, default=_BEYOND * max(cell.counts["flops"] for cell in cells))
    best, _ = parametric.optimum(samples, far)
    true = parametric.optimum(law, far)
    loss = parametric.loss(samples, *true)

    def between(values: np.ndarray) -> list[float]:
        return [float(one) for one in np.quantile(values, (0.025, 0.975))]

    return {
        "flops": far,
        "scatter": scatter,
        "draws": draws,
        "exponent": between(parametric.exponents(samples)["params"]),
        "params": between(best),
        "loss": between(loss),
        "expected": {"exponent": float(parametric.exponents(law)["params"]), "params": float(true[0])}
        | {"loss": float(parametric.loss(law, *true))},
    }
