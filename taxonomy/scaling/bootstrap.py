"""Intervals by resampling runs, and inside what was run with several seeds, by resampling those."""

from collections.abc import Mapping

import numpy as np

from taxonomy.scaling.results import Runs

LEVEL = 0.95
_CELL = ("params", "tokens", "unique_tokens", "learning_rate", "batch_tokens")


def weights(runs: Runs, draws: int, seed: int = 0) -> np.ndarray:
    """How often each run is in each of the resampled sets (draws, runs). Runs that differ in their seed alone are one cell."""
    generator = np.random.default_rng(seed)
    cells: dict[tuple, list[int]] = {}
    for place, row in enumerate(runs.rows):
        repeated = "seed" in row
        cells.setdefault((*(row.get(name) for name in _CELL), None if repeated else place), []).append(place)
    times_BK = generator.multinomial(len(cells), np.full(len(cells), 1 / len(cells)), size=draws)
    result = np.zeros((draws, len(runs)))
    for times_B, places in zip(times_BK.T, cells.values(), strict=True):
        seeds = len(places)
        result[:, places] = times_B[:, None] if seeds == 1 else generator.multinomial(times_B * seeds, np.full(seeds, 1 / seeds))
    return result


def drawn(samples: Mapping[str, np.ndarray]) -> int:
    """How many samples there are of each quantity."""
    return len(next(iter(samples.values())))


def interval(samples_B: np.ndarray, level: float = LEVEL) -> list[float | None]:
    """The middle `level` of the finite samples; [None, None] where there are fewer than twenty."""
    finite = np.asarray(samples_B, float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 20:
        return [None, None]
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def intervals(samples: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """The interval of every quantity that varies."""
    return {name: interval(values) for name, values in samples.items() if np.unique(values[np.isfinite(values)]).size > 1}


def standard_errors(samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {
        name: float(np.nanstd(np.where(np.isfinite(values), values, np.nan))) for name, values in samples.items() if len(values)
    }
