"""What mixtures of objectives and of datasets share: weights, and short names for what is mixed."""

from collections.abc import Sequence

import numpy as np

from taxonomy.registry import Component


def check(parts: Sequence, weights: Sequence[float], what: str, example: str) -> None:
    """Raises ValueError unless there are parts, with as many weights as parts or none."""
    if not parts:
        raise ValueError(f"needs at least one {what}, such as {example}")
    if weights and len(weights) != len(parts):
        raise ValueError(f"{len(weights)} weights for {len(parts)} {what}s")
    if weights and not (min(weights) >= 0 and sum(weights) > 0):
        raise ValueError(f"weights={weights} must not be negative, nor all 0")


def shares(parts: Sequence, weights: Sequence[float]) -> np.ndarray:
    """The share of each part, float64 [parts], of sum 1; equal where no weights are given."""
    weights = np.array(weights or [1] * len(parts), np.float64)
    return weights / weights.sum()


def labels(parts: Sequence[Component]) -> tuple[str, ...]:
    """The parts' names; with the arguments they differ in where they share one, and numbered where they differ in none."""
    found = []
    for part in parts:
        namesakes = [other for other in parts if other.name == part.name]
        own = [key for key, value in part.arguments if any(other.get(key) != value for other in namesakes)]
        found.append(str(Component(part.kind, part.name, tuple((key, part[key]) for key in own))))
    return tuple(label if found.count(label) == 1 else f"{label}#{found[: i + 1].count(label)}" for i, label in enumerate(found))
