"""Learning rates and batches that were best, as powers of parameters and tokens; and such laws of others.

Of every (N, D) that was run with several learning rates or batches the best run counts: lr* = c N^n D^d and batch* = c D^d
(tokens), the form of Li et al. 2025, arXiv:2503.04715. What a law is worth is what it loses: the loss of the setting that was run
nearest to what it says, over the least.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from taxonomy.errors import UserError
from taxonomy.scaling.results import Runs

NAMES = ("rate_coefficient", "rate_params_exponent", "rate_tokens_exponent", "batch_coefficient", "batch_tokens_exponent")


@dataclasses.dataclass(frozen=True)
class Cell:
    """All settings of one size and number of tokens, (M,) each."""

    params: float
    tokens: float
    rate_M: np.ndarray
    batch_M: np.ndarray
    loss_M: np.ndarray


def cells(runs: Runs) -> tuple[list[Cell], Runs]:
    """What was run with at least four settings, and the runs with the others excluded."""
    rates, batches = runs.column("learning_rate"), runs.column("batch_tokens")
    keys = list(zip(runs.params, runs.tokens, strict=True))
    few = {
        row["id"]: "fewer than 4 settings of its size and tokens"
        for row, key in zip(runs.rows, keys, strict=True)
        if keys.count(key) < 4
    }
    found = []
    for key in sorted({key for key in keys if keys.count(key) >= 4}):
        here = np.array([one == key for one in keys])
        found.append(Cell(*key, rates[here], batches[here], runs.loss[here]))
    return found, runs.without(few)


def fit(cells: list[Cell], draws: int = 0, seed: int = 0) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The laws of learning rate and batch by least squares of logarithms, and samples of them over cells."""
    if len(cells) < 4:
        raise UserError(
            f"hyperparameters: {len(cells)} pairs of size and tokens have at least 4 settings, at least 4 pairs are needed"
        )
    best = [(cell.params, cell.tokens, cell.rate_M[cell.loss_M.argmin()], cell.batch_M[cell.loss_M.argmin()]) for cell in cells]
    log_N, log_D, log_rate, log_batch = np.log(np.array(best)).T
    ones = np.ones(len(cells))
    designs = (np.stack([ones, log_N, log_D], 1), log_rate), (np.stack([ones, log_D], 1), log_batch)
    weights = np.random.default_rng(seed).multinomial(len(cells), ones / len(cells), size=draws)
    weights = np.concatenate([ones[None], weights])
    columns = []
    for design, target in designs:
        square = np.einsum("bk,ki,kj->bij", weights, design, design)
        # A draw of one size alone says nothing of sizes.
        usable = np.linalg.cond(square) < 1e12
        solved = np.full((len(weights), design.shape[1]), np.nan)
        right = np.einsum("bk,ki,k->bi", weights, design, target)
        solved[usable] = np.linalg.solve(square[usable], right[usable][..., None])[..., 0]
        columns += [np.exp(solved[:, 0]), *solved[:, 1:].T]
    return {name: float(c[0]) for name, c in zip(NAMES, columns, strict=True)}, {
        n: c[1:] for n, c in zip(NAMES, columns, strict=True)
    }


def learning_rate(parameters: Mapping[str, float], params, tokens):
    p = parameters
    return p["rate_coefficient"] * params ** p["rate_params_exponent"] * tokens ** p["rate_tokens_exponent"]


def batch(parameters: Mapping[str, float], params, tokens):
    """Tokens a step."""
    return parameters["batch_coefficient"] * tokens ** parameters["batch_tokens_exponent"]


def regret(cells: list[Cell], parameters: Mapping[str, float]) -> np.ndarray:
    """Of each cell, the share of loss that the setting nearest to the law's in logarithms loses against the best one."""
    lost = []
    for cell in cells:
        rate, tokens = learning_rate(parameters, cell.params, cell.tokens), batch(parameters, cell.params, cell.tokens)
        distance = np.hypot(np.log(cell.rate_M / rate), np.log(cell.batch_M / tokens))
        lost.append(cell.loss_M[distance.argmin()] / cell.loss_M.min() - 1)
    return np.array(lost)


# Li et al. 2025, arXiv:2503.04715: lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571 tokens.
STEP_LAW = dict(zip(NAMES, (1.79, -0.713, 0.307, 0.58, 0.571), strict=True))
