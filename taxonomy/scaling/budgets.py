"""Which runs spent the same: groups of runs by FLOPs."""

import numpy as np

from taxonomy.scaling.results import Runs

WITHIN = 1.25  # how far from a budget its runs may be
_WIDE = np.log(1.8)
_FEWEST = 5


def group(runs: Runs, budgets: list[float] | None = None) -> tuple[np.ndarray, list[float]]:
    """The budget of every run, an index (R,) or -1 for none, and the budgets in FLOPs, ascending.

    Given budgets take the runs within a quarter. Otherwise gaps between neighbours separate groups; where that leaves one too wide
    to be a budget, budgets are where runs are densest, five or more within a quarter, and the runs between them have none.
    """
    logs = np.log(runs.flops)
    if budgets:
        values = sorted(budgets)
    else:
        order = np.argsort(logs)
        index = np.empty(len(logs), int)
        index[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > np.log(WITHIN))])
        if all(np.ptp(logs[index == one]) <= _WIDE for one in set(index)):
            return index, [float(np.exp(logs[index == one].mean())) for one in range(index.max() + 1)]
        values = _densest(logs)
        if not values:
            return np.full(len(logs), -1), []
    distance = np.abs(logs[:, None] - np.log(values))
    return np.where(distance.min(1) <= np.log(WITHIN), distance.argmin(1), -1), values


def _densest(logs: np.ndarray) -> list[float]:
    """The centres of the fullest windows that do not overlap, ascending."""
    half, left, found = np.log(WITHIN), logs, []
    while True:
        # A window is centred on the mean of what is near one of the runs.
        centres = [left[np.abs(left - one) <= half / 2].mean() for one in left]
        apart = [c for c in centres if all(abs(c - other) > 2 * half for other in found)]
        if not apart:
            break
        counts = [int((np.abs(left - c) <= half / 2).sum()) for c in apart]
        best = apart[int(np.argmax(counts))]
        if max(counts) < _FEWEST:
            break
        found.append(best)
        left = left[np.abs(left - best) > half]
        if not left.size:
            break
    return sorted(float(np.exp(one)) for one in found)
