"""Many small smooth minimisations at once: BFGS whose every step is one array operation over all problems.

A fit from fifty starts, or a thousand fits of resampled runs, is one call: problems that have converged leave the batch. The line
search brackets the weak Wolfe conditions by bisection, with which BFGS also passes the kinks of nearly absolute losses
(Lewis & Overton 2013, "Nonsmooth optimization via quasi-Newton methods").
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# (points (B, P), which problems they belong to (B,)) -> values (B,), gradients (B, P)
Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_DECREASE, _CURVATURE = 1e-4, 0.9
_HALVINGS = 30


class Minimum(NamedTuple):
    """Where each problem ended: points (B, P), values (B,), steps taken (B,)."""

    point_BP: np.ndarray
    value_B: np.ndarray
    steps_B: np.ndarray


def minimize(
    objective: Objective, start_BP: np.ndarray, steps: int = 400, tolerance: float = 1e-10, inverse_BPP: np.ndarray | None = None
) -> Minimum:
    """Goes downhill from every start until a step gains less than `tolerance` of the value twice in a row.

    inverse_BPP: a guess of the inverse curvature at the starts, which saves the steps that it takes to learn it.
    """
    point_BP = np.array(start_BP, np.float64)
    problems, size = point_BP.shape
    value_B, gradient_BP = objective(point_BP, np.arange(problems))
    value_B, gradient_BP = value_B.copy(), gradient_BP.copy()
    steps_B, idle_B = np.zeros((2, problems), np.int64)
    guessed = inverse_BPP is not None
    if not guessed:
        length_B = np.maximum(np.linalg.norm(gradient_BP, axis=1), 1e-12)
        inverse_BPP = 0.1 / length_B[:, None, None] * np.eye(size)
    inverse_BPP = np.broadcast_to(inverse_BPP, (problems, size, size)).copy()
    active = np.flatnonzero(np.isfinite(value_B))
    for _ in range(steps):
        if not active.size:
            break
        direction = -np.einsum("bij,bj->bi", inverse_BPP[active], gradient_BP[active])
        slope = np.einsum("bi,bi->b", direction, gradient_BP[active])
        length, value, gradient = _search(objective, active, point_BP[active], direction, value_B[active], slope)
        move, change = length[:, None] * direction, gradient - gradient_BP[active]
        gained = value_B[active] - value
        idle_B[active] = np.where(gained <= tolerance * np.abs(value), idle_B[active] + 1, 0)
        fresh = (steps_B[active] == 0) & (not guessed)
        inverse_BPP[active] = _update(inverse_BPP[active], move, change, fresh)
        point_BP[active] += move
        value_B[active], gradient_BP[active] = value, gradient
        steps_B[active] += 1
        active = active[(idle_B[active] < 2) & (length > 0)]
    return Minimum(point_BP, value_B, steps_B)


def polish(objective: Objective, start_P: np.ndarray, inverse_PP: np.ndarray, rounds: int = 6) -> tuple[np.ndarray, float]:
    """The best point that is found from one start when the search begins anew, as long as that helps."""
    best, value = np.asarray(start_P, np.float64), np.inf
    for _ in range(rounds):
        found = minimize(objective, best[None], steps=1000, tolerance=1e-14, inverse_BPP=inverse_PP)
        if not found.value_B[0] < value:
            break
        improvement = value - found.value_B[0]
        best, value = found.point_BP[0], float(found.value_B[0])
        if improvement <= 1e-13 * abs(value):
            break
    return best, value


def _search(objective, problems, point_BP, direction_BP, value_B, slope_B):
    """Step lengths (0 where no step helps), with values and gradients there."""
    count = len(problems)
    low, high, length = np.zeros(count), np.full(count, np.inf), np.ones(count)
    value, gradient = value_B.copy(), np.zeros_like(point_BP)
    waiting = np.arange(count)
    # The best point so far that goes down enough, for searches that end without both conditions.
    kept = np.zeros(count)
    for _ in range(_HALVINGS):
        at = point_BP[waiting] + length[waiting, None] * direction_BP[waiting]
        with np.errstate(all="ignore"):
            found, slopes = objective(at, problems[waiting])
            steep = np.einsum("bi,bi->b", slopes, direction_BP[waiting])
        down = np.isfinite(found) & (found <= value_B[waiting] + _DECREASE * length[waiting] * slope_B[waiting])
        flat = steep >= _CURVATURE * slope_B[waiting]
        good = waiting[down]
        kept[good], value[good], gradient[good] = length[good], found[down], slopes[down]
        low[good] = length[good]
        high[waiting[~down]] = length[waiting[~down]]
        waiting = waiting[~(down & flat)]
        if not waiting.size:
            break
        bounded = np.isfinite(high[waiting])
        length[waiting] = np.where(bounded, (low[waiting] + np.where(bounded, high[waiting], 0)) / 2, 2 * low[waiting])
    stuck = np.flatnonzero(kept == 0)
    if stuck.size:
        value[stuck], gradient[stuck] = objective(point_BP[stuck], problems[stuck])
    return kept, value, gradient


def _update(inverse_BPP, move_BP, change_BP, fresh_B):
    """The BFGS update of inverse curvatures; left as it is where a step shows none. The first sets the scale."""
    product = np.einsum("bi,bi->b", move_BP, change_BP)
    squared = np.einsum("bi,bi->b", change_BP, change_BP)
    usable = product > 1e-300
    safe = np.where(usable, product, 1.0)
    scale = np.where(fresh_B & usable, safe / np.where(squared > 0, squared, 1.0), 0.0)
    eye = np.eye(move_BP.shape[1])
    inverse = np.where((scale > 0)[:, None, None], scale[:, None, None] * eye, inverse_BPP)
    moved = np.einsum("bij,bj->bi", inverse, change_BP)
    ratio = 1 + np.einsum("bi,bi->b", change_BP, moved) / safe
    outer = np.einsum("bi,bj->bij", moved, move_BP)
    updated = (
        inverse + (np.einsum("b,bi,bj->bij", ratio, move_BP, move_BP) - outer - outer.transpose(0, 2, 1)) / safe[:, None, None]
    )
    return np.where(usable[:, None, None], updated, inverse)
