"""What a study will cost and how much it will say, before anything is trained.

The intervals are simulated: losses of the planned cells under an expected law, each with the deviation of a single run, are fitted
as the study's own will be, many times. They are a lower bound, for they take the law to be exact.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taxonomy.scaling import parametric, robust
from taxonomy.scaling.cells import Cell
from taxonomy.scaling.isoflop import OFF_CENTRE, WIDE
from taxonomy.scaling.shown import number
from taxonomy.scaling.study import Study

_EDGE = 1.25  # a minimum this near to the first or the last size is at the edge
_BEYOND = 10.0  # times the largest budget, where nothing is held out


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast cells run: FLOP/s, and where that is known from."""

    flops: float
    source: str

    def minutes(self, cell: Cell) -> float:
        return cell.counts["flops_exact"] / self.flops / 60


def measured(rows: Sequence[Mapping[str, Any]]) -> Speed | None:
    """The median of the runs that there are."""
    speeds = [row["tokens_per_second"] * row["flops_exact"] / row["tokens"] for row in rows if "tokens_per_second" in row]
    return Speed(statistics.median(speeds), f"{len(speeds)} finished runs") if speeds else None


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
    """Of one budget: too few or too wide sizes, and a minimum that is expected at their edge or beyond."""
    sizes = sorted({cell.counts["params"] for cell in cells})
    if len(sizes) < 3:
        return [f"{number(flops)} FLOPs: {len(sizes)} sizes, a parabola needs 3"]
    found, name = [], f"{number(flops)} FLOPs"
    if len(sizes) < 5:
        found.append(f"{name}: {len(sizes)} sizes, fewer than 5")
    if sizes[-1] / sizes[0] > WIDE * 1.001:
        found.append(f"{name}: sizes span a factor of {sizes[-1] / sizes[0]:.3g}; a parabola is good to about {WIDE:g}")
    best = float(parametric.optimum(law, flops)[0])
    off = abs(math.log(best) - math.log(sizes[0] * sizes[-1]) / 2) / math.log(sizes[-1] / sizes[0])
    span = f"{number(sizes[0])} to {number(sizes[-1])}"
    if not _EDGE * sizes[0] <= best <= sizes[-1] / _EDGE:
        found.append(f"{name}: the optimum is expected at the edge, {number(best)} parameters of {span}")
    elif off > OFF_CENTRE:
        found.append(f"{name}: the optimum is expected off centre, {number(best)} parameters of {span}")
    return found


def intervals(
    study: Study, planned: Sequence[Cell], law: Mapping[str, float], scatter: float, draws: int = 100, seed: int = 0
) -> dict[str, Any] | None:
    """What 95% of the answers are within: the exponent of N*, N*, and the loss at the true N* and D*.

    The last two are at the largest held-out budget, or ten times beyond all. None where there are too few cells for the law.
    """
    cells = [cell for cell in planned if not cell.left_out and not cell.holdout]
    shape = {(cell.counts["params"], cell.counts["tokens"]) for cell in cells}
    if len(shape) <= len(parametric.Parametric.names):
        return None
    params, tokens = (np.array([cell.counts[name] for cell in cells], float) for name in ("params", "tokens"))
    exact = np.log(parametric.loss(law, params, tokens))
    base = parametric.Parametric(np.log(params), np.log(tokens), exact)
    start, generator, points = base.point(law)[None], np.random.default_rng(seed), []
    for _ in range(draws):
        noisy = dataclasses.replace(base, log_loss_R=exact + scatter * generator.standard_normal(len(cells)))
        points.append(robust.fit(noisy, starts_SP=start).point_P)
    samples = base.parameters(np.array(points))
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
