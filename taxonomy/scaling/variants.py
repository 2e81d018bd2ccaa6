"""What the axes of a study come to: losses of each variant over what is compared, with the spread of its seeds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from taxonomy.errors import UserError
from taxonomy.scaling.results import Runs
from taxonomy.scaling.study import Study


@dataclasses.dataclass(frozen=True)
class Variant:
    """One curve, (M,) each: x, the mean loss over seeds, the least and the most."""

    label: str
    x_M: np.ndarray
    mean_M: np.ndarray
    low_M: np.ndarray
    high_M: np.ndarray


def curves(study: Study, runs: Runs) -> tuple[str, list[Variant]]:
    """What x is, and the variants. A grid of numbers is x itself, with a curve for each size; ideas are compared over FLOPs."""
    numbers = [name for name, values in study.axes.items() if len(values) > 1 and all(type(v) in (int, float) for v in values)]
    x = numbers[0] if numbers else "flops"
    if not len(runs):
        raise UserError("sweep plot: no cell has finished")
    names = [name for name in study.axes if name != x]
    names += [name for name in study.ladder[0] if numbers and len(study.ladder) > 1]
    # Cells that differ by rounding to whole steps alone stand at one x: that of their budget, or of their rung's mean.
    places = _places(study, runs) if x == "flops" else {row["id"]: row[x] for row in runs.rows}
    found: dict[str, dict[float, list[float]]] = {}
    for row in runs.rows:
        label = ", ".join(_said(name, row[name]) for name in names) or "all"
        found.setdefault(label, {}).setdefault(places[row["id"]], []).append(row["loss"])
    return x, [_variant(label, points) for label, points in found.items()]


def _places(study: Study, runs: Runs) -> dict[str, float]:
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in runs.rows:
        groups.setdefault(tuple(row.get(name) for name in study.ladder[0]), []).append(row)
    if study.budgets:  # several lengths of a rung
        return {row["id"]: min(study.budgets, key=lambda budget: abs(budget - row["flops"])) for row in runs.rows}
    return {row["id"]: float(np.mean([one["flops"] for one in rows])) for rows in groups.values() for row in rows}


def _variant(label: str, points: Mapping[float, list[float]]) -> Variant:
    ordered = sorted(points.items())
    losses = [loss for _, loss in ordered]
    of = lambda function: np.array([function(one) for one in losses], float)  # noqa: E731
    return Variant(label, np.array([x for x, _ in ordered], float), of(np.mean), of(min), of(max))


def _said(name: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{name.rpartition('.')[2]} {value}"
