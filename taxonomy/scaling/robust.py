"""Fits of a law to losses under Huber's loss, for one set of weights or for many at once.

The objective is sum_r w_r Huber_delta(prediction - log loss), as in Hoffmann et al. 2022, arXiv:2203.15556, section 3.3.
Optimizers see it divided by delta and the number of runs, for their tolerances are made for values near one; reported is the
plain sum.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from taxonomy.scaling import minimize as search

DELTA = 1e-3
SQUARES = np.inf  # as a delta: least squares
_UNIT_OF_SQUARES = 1e-3  # what sums of squares are divided by
_AGREE = 1e-3
_APART = 0.1
_NUDGE = 1e-5


class Law(Protocol):
    """A law over given runs, in coordinates that are easy to minimise in; see `parametric.Parametric`."""

    names: tuple[str, ...]
    plain: bool  # errors are of losses and not of their logarithms
    log_loss_R: np.ndarray

    def log_losses(self, point_BP: np.ndarray) -> tuple[np.ndarray, Any]: ...
    def parameters(self, point_BP: np.ndarray) -> dict[str, np.ndarray]: ...
    def starts(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Found:
    """The best point of all starts, its objective, what each start came to, and the points (S, P) of minima nearly as good."""

    point_P: np.ndarray
    objective: float
    objectives_S: np.ndarray
    minima_SP: np.ndarray

    @property
    def agreeing(self) -> int:
        """Starts that came to within a thousandth of the best objective."""
        return int((self.objectives_S <= self.objective * (1 + _AGREE) + 1e-15).sum())


def fit(law: Law, delta: float = DELTA, starts_SP: np.ndarray | None = None) -> Found:
    """The law's optimum from all of its starts (or the given ones), polished."""
    starts_SP = law.starts() if starts_SP is None else starts_SP
    ones = np.ones((len(starts_SP), len(law.log_loss_R)))
    objective, unit = _objective(law, ones, delta)
    # Coarse first: a start far away need not be followed to the last digit.
    found = search.minimize(objective, starts_SP, steps=300, tolerance=1e-9, inverse_BPP=_inverse_curvature(law, starts_SP, delta))
    values = np.where(np.isfinite(found.value_B), found.value_B, np.inf)
    best = found.point_BP[np.argmin(values)]
    best, value = search.polish(objective, best, _inverse_curvature(law, best[None], delta)[0])
    objectives = np.minimum(values * unit, np.finfo(float).max)
    return Found(best, float(value * unit[0]), objectives, _minima(best, found.point_BP, objectives))


def _minima(best_P: np.ndarray, point_SP: np.ndarray, objective_S: np.ndarray) -> np.ndarray:
    """The best point, and up to two others that are elsewhere and within a twentieth of its objective."""
    minima = [best_P]
    for place in np.argsort(objective_S):
        apart = min(np.abs(point_SP[place] - one).max() for one in minima) > _APART
        if len(minima) < 3 and objective_S[place] <= 1.05 * objective_S.min() and apart:
            minima.append(point_SP[place])
    return np.array(minima)


def refit(
    law: Law,
    weights_BR: np.ndarray,
    starts: np.ndarray,
    delta: float | np.ndarray = DELTA,
    log_loss_BR: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Points (B, P) and objectives (B,) under each row of weights, each from every one of `starts` (S, P); the better counts.

    log_loss_BR: losses of each row, where they are not all the law's own.
    """
    best, values = None, None
    objective, unit = _objective(law, weights_BR, delta, log_loss_BR)
    for start_P in starts:
        inverse = _inverse_curvature(law, start_P[None], np.median(delta))
        found = search.minimize(objective, np.tile(start_P, (len(weights_BR), 1)), steps=200, tolerance=1e-8, inverse_BPP=inverse)
        if best is None:
            best, values = found.point_BP, found.value_B * unit
        else:
            better = found.value_B * unit < values
            best[better], values[better] = found.point_BP[better], (found.value_B * unit)[better]
    return best, values


def predictions(law: Law, point_BP: np.ndarray) -> np.ndarray:
    """Losses (B, R) that the law predicts for its runs."""
    return np.exp(law.log_losses(point_BP)[0])


def _inverse_curvature(law: Law, point_SP: np.ndarray, delta: float) -> np.ndarray:
    """The inverse (S, P, P) of the curvature that reweighted least squares has at given points, for the scaled objective."""
    starts, size = point_SP.shape
    moves = np.concatenate([_NUDGE * np.eye(size), -_NUDGE * np.eye(size)])
    at = np.concatenate([point_SP[:, None], point_SP[:, None] + moves], axis=1).reshape(-1, size)
    transform = np.exp if law.plain else np.asarray
    predicted = transform(law.log_losses(at)[0]).reshape(starts, 1 + 2 * size, -1)
    slopes_SPR = (predicted[:, 1 : size + 1] - predicted[:, size + 1 :]) / (2 * _NUDGE)
    if np.isfinite(delta):
        weights_SR = 1 / np.maximum(np.abs(predicted[:, 0] - transform(law.log_loss_R)), delta)
    else:
        weights_SR = np.full((starts, predicted.shape[2]), 1 / _UNIT_OF_SQUARES)
    curvature = np.einsum("spr,sr,sqr->spq", slopes_SPR, weights_SR, slopes_SPR) / predicted.shape[2]
    # A direction that the runs say nothing of is not searched without bound.
    scale = np.trace(curvature, axis1=1, axis2=2)[:, None, None]
    return np.linalg.inv(curvature + (1e-9 * scale + 1e-12) * np.eye(size))


def objectives(law: Law, point_BP: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """The objective (B,) at given points."""
    objective, unit = _objective(law, np.ones((len(point_BP), len(law.log_loss_R))), delta)
    return objective(point_BP, np.arange(len(point_BP)))[0] * unit


def _objective(
    law: Law, weights_BR: np.ndarray, delta: float | np.ndarray, log_loss_BR: np.ndarray | None = None
) -> tuple[search.Objective, np.ndarray]:
    """The scaled objective of each row of weights, and what to multiply it by for the plain one."""
    runs = weights_BR.shape[1]
    delta_B = np.broadcast_to(np.asarray(delta, float), (len(weights_BR),))
    scale_B = np.where(np.isfinite(delta_B), delta_B, _UNIT_OF_SQUARES)
    plain = law.plain
    observed_BR = np.broadcast_to(law.log_loss_R, weights_BR.shape) if log_loss_BR is None else log_loss_BR
    observed_BR = np.exp(observed_BR) if plain else observed_BR

    def objective(point_BP, problems_B):
        predicted_BR, pull = law.log_losses(point_BP)
        prediction_BR = np.exp(predicted_BR) if plain else predicted_BR
        error_BR = prediction_BR - observed_BR[problems_B]
        weights, limit = weights_BR[problems_B] / (runs * scale_B[problems_B, None]), delta_B[problems_B, None]
        # Huber's loss: quadratic up to delta, then linear; what is beyond is both.
        inner = np.clip(error_BR, -limit, limit)
        value = inner * (error_BR - inner / 2)
        slope = weights * inner
        return np.einsum("br,br->b", weights, value), pull(slope * prediction_BR if plain else slope)

    return objective, scale_B * runs
