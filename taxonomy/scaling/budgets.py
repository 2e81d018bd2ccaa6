"""Which runs spent the same: groups of runs by FLOPs."""

import numpy as np

from taxonomy.scaling.results import Runs

_SAME = np.log(1.25)
_WIDE = np.log(1.8)


def group(runs: Runs, budgets: list[float] | None = None, within: float = 1.25) -> tuple[np.ndarray, list[float]]:
    """The budget of every run, an index (R,) or -1 for none, and the budgets in FLOPs, ascending.

    Given budgets take the runs within a factor. Otherwise a gap between neighbours separates groups; where that leaves groups that
    are too wide to be one budget, runs were not planned by budgets, and half decades take their place.
    """
    logs = np.log(runs.flops)
    if budgets:
        budgets = sorted(budgets)
        distance = np.abs(logs[:, None] - np.log(budgets))
        nearest = distance.argmin(1)
        return np.where(distance.min(1) <= np.log(within), nearest, -1), budgets
    order = np.argsort(logs)
    index = np.empty(len(logs), int)
    index[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > _SAME)])
    if any(np.ptp(logs[index == one]) > _WIDE for one in set(index)):
        _, index = np.unique(np.floor(logs / np.log(10) * 2), return_inverse=True)
    return index, [float(np.exp(logs[index == one].mean())) for one in range(index.max() + 1)]
