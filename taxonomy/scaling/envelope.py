"""The envelope of training curves: approach 1 of Hoffmann et al. 2022, arXiv:2203.15556, section 3.1.

At each of 1500 budgets the run with the least loss there has the best size and number of tokens; straight lines through them in
logarithms are N* ~ C^a and D* ~ C^b. What is on the curve before a learning rate has decayed is worse than a run that ended
there, so points of one size at several horizons are right and curves of long runs are biased. Where the smallest or largest size
trained so far is best, the best may be beyond, and the point does not count. Intervals resample sizes.
"""

import dataclasses

import numpy as np

from taxonomy.errors import UserError
from taxonomy.scaling import power_law
from taxonomy.scaling.isoflop import NAMES
from taxonomy.scaling.results import Runs

POINTS = 1500
_SAME_SIZE = np.log(1.03)
_SMOOTHING = 0.02  # of a curve's length in log FLOPs


@dataclasses.dataclass(frozen=True)
class Envelope:
    """Of each budget (K,): the curve that is best (-1: none, or one at the edge), its size, its tokens and its loss."""

    flops_K: np.ndarray
    best_K: np.ndarray
    params_K: np.ndarray
    tokens_K: np.ndarray
    loss_K: np.ndarray


@dataclasses.dataclass(frozen=True)
class Size:
    """The losses of one size along compute."""

    params: float
    flops_M: np.ndarray
    tokens_M: np.ndarray
    loss_M: np.ndarray


def sizes(runs: Runs) -> list[Size]:
    """Smoothed training curves where runs have them; otherwise the results of all runs of one size, best first."""
    rows = sorted(runs.rows, key=lambda row: row["params"])
    groups: list[list[dict]] = []
    for row in rows:
        if (
            groups
            and "curve" not in row
            and np.log(row["params"] / groups[-1][-1]["params"]) <= _SAME_SIZE
            and "curve" not in groups[-1][-1]
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    found = []
    for group in groups:
        points = group[0].get("curve") or [[row["tokens"], row["flops"], row["loss"]] for row in group]
        tokens, flops, loss = np.array(sorted(points, key=lambda point: point[1])).T
        if len(flops) < 2:
            continue
        loss = _smooth(np.log(flops), loss) if "curve" in group[0] else np.minimum.accumulate(loss)
        found.append(Size(float(np.mean([row["params"] for row in group])), flops, tokens, loss))
    return found


def envelope(sizes: list[Size], present: np.ndarray | None = None, losses: np.ndarray | None = None) -> Envelope:
    """The best of the sizes at each budget. `losses`: `losses_at(sizes)`, if it is known."""
    grid, table = losses_at(sizes) if losses is None else losses
    there = np.ones(len(sizes), bool) if present is None else present
    table = np.where(there[:, None], table, np.inf)
    best = table.argmin(0)
    least = table.min(0)
    trained = np.isfinite(table)
    smallest, largest = trained.argmax(0), len(sizes) - 1 - trained[::-1].argmax(0)
    interior = np.isfinite(least) & (best > smallest) & (best < largest)
    params = np.array([size.params for size in sizes])
    # Tokens follow from compute along the winner's own curve.
    tokens = np.full(len(grid), np.nan)
    for place in np.unique(best[interior]):
        here = interior & (best == place)
        one = sizes[place]
        tokens[here] = np.exp(np.interp(np.log(grid[here]), np.log(one.flops_M), np.log(one.tokens_M)))
    return Envelope(grid, np.where(interior, best, -1), np.where(interior, params[best], np.nan), tokens, least)


def losses_at(sizes: list[Size]) -> tuple[np.ndarray, np.ndarray]:
    """The budgets (K,), and the loss of every size at each (S, K); infinite where a size was not trained so far."""
    if len(sizes) < 3:
        raise UserError(f"envelope: {len(sizes)} sizes have two points or more, at least 3 are needed")
    low, high = min(size.flops_M[0] for size in sizes), max(size.flops_M[-1] for size in sizes)
    grid = np.geomspace(low, high, POINTS)
    table = [
        np.exp(np.interp(np.log(grid), np.log(size.flops_M), np.log(size.loss_M), left=np.inf, right=np.inf)) for size in sizes
    ]
    return grid, np.array(table)


def fit(sizes: list[Size], draws: int = 0, seed: int = 0) -> tuple[dict[str, float], dict[str, np.ndarray], Envelope]:
    """The parameters of N* and D*, samples of them, and the envelope."""
    losses = losses_at(sizes)
    whole = envelope(sizes, losses=losses)
    if len(np.unique(whole.best_K[whole.best_K >= 0])) < 2:
        raise UserError("envelope: fewer than 2 sizes are best somewhere between the smallest and the largest")
    params, tokens = [whole.params_K], [whole.tokens_K]
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        present = np.bincount(generator.integers(len(sizes), size=len(sizes)), minlength=len(sizes)) > 0
        one = envelope(sizes, present, losses)
        params.append(one.params_K)
        tokens.append(one.tokens_K)
    lines = (*power_law.fit(whole.flops_K, np.array(params)), *power_law.fit(whole.flops_K, np.array(tokens)))
    found = {name: float(line[0]) for name, line in zip(NAMES, lines, strict=True)}
    return found, {name: line[1:] for name, line in zip(NAMES, lines, strict=True)}, whole


def _smooth(x_M: np.ndarray, loss_M: np.ndarray) -> np.ndarray:
    """A Gaussian mean in log FLOPs over a fiftieth of the curve."""
    width = max(_SMOOTHING * np.ptp(x_M), 1e-12)
    near = np.exp(-0.5 * ((x_M[:, None] - x_M) / width) ** 2)
    return near @ loss_M / near.sum(1)
