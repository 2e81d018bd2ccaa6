"""Loss when data repeats: Muennighoff et al. 2023, arXiv:2305.16264, sections 3.1 and 6.

L = E + A / N'^alpha + B / D'^beta. Of D tokens U_D are unique and the rest repeat them R_D = D/U_D - 1 times; repeats are worth
less and less: D' = U_D + U_D R_D* (1 - exp(-R_D/R_D*)), so that no more than U_D (1 + R_D*) can be had. N' likewise, where U_N =
min(N, what is compute-optimal for U_D tokens) and what a model has beyond that are repeats. The first five numbers come from runs
without repeats; fitted are R_D* and R_N*. Data rarely bounds R_D* from above: read its interval and profile before its value.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from taxonomy.scaling import parametric

PROFILE = (5.0, 10.0, 15.0, 30.0, 100.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class DataConstrained:
    """The law over given runs. A point is (log R_D*, log R_N*); `base` has A, B, E, alpha, beta."""

    base: dict[str, float]
    params_R: np.ndarray
    tokens_R: np.ndarray
    unique_R: np.ndarray
    log_loss_R: np.ndarray

    names: ClassVar[tuple[str, ...]] = ("R_D", "R_N")
    plain: ClassVar[bool] = False

    @classmethod
    def of(cls, runs, base: dict[str, float]) -> "DataConstrained":
        return cls(base, runs.params, runs.tokens, runs.column("unique_tokens"), np.log(runs.loss))

    def log_losses(self, point_BP: np.ndarray):
        base = self.base
        worth_D, worth_N = np.exp(np.minimum(point_BP, 50.0)).T[..., None]
        (unique_D, repeats_D), (unique_N, repeats_N) = split(base, self.params_R, self.tokens_R, self.unique_R)
        tokens, tokens_slope = _effective(unique_D, repeats_D, worth_D)
        params, params_slope = _effective(unique_N, repeats_N, worth_N)
        of_params, of_tokens = base["A"] * params ** -base["alpha"], base["B"] * tokens ** -base["beta"]
        total = base["E"] + of_params + of_tokens

        def pull(gradient_BR):
            by_tokens = -base["beta"] * of_tokens / tokens * tokens_slope / total
            by_params = -base["alpha"] * of_params / params * params_slope / total
            return np.stack([(gradient_BR * by_tokens).sum(1), (gradient_BR * by_params).sum(1)], axis=1)

        return np.log(total), pull

    def parameters(self, point_BP: np.ndarray) -> dict[str, np.ndarray]:
        fixed = {name: np.full(len(point_BP), value) for name, value in self.base.items()}
        return fixed | dict(zip(self.names, np.exp(np.minimum(point_BP, 50.0)).T, strict=True))

    def point(self, parameters: parametric.Parameters) -> np.ndarray:
        return np.log([float(parameters[name]) for name in self.names])

    def starts(self) -> np.ndarray:
        return np.log([(data, size) for data in (3.0, 15.0, 100.0) for size in (1.5, 5.0, 30.0)])


def split(base: parametric.Parameters, params, tokens, unique) -> tuple[tuple, tuple]:
    """What is unique and how often it repeats: of the tokens, and of the parameters."""
    unique_D = np.minimum(unique, tokens)
    optimal = optimal_params(base, unique_D)
    unique_N = np.minimum(params, optimal)
    return (unique_D, tokens / unique_D - 1), (unique_N, params / unique_N - 1)


def optimal_params(base: parametric.Parameters, tokens):
    """The parameters for which so many tokens are compute-optimal under C = 6 N D."""
    ratio = base["alpha"] * base["A"] / (base["beta"] * base["B"])
    return (ratio * np.asarray(tokens, float) ** base["beta"]) ** (1 / base["alpha"])


def _effective(unique, repeats, worth):
    """U + U R* (1 - exp(-R/R*)), and its derivative by log R*."""
    spent = repeats / worth
    return unique - unique * worth * np.expm1(-spent), -unique * worth * (np.expm1(-spent) + spent * np.exp(-spent))


def effective(unique, repeats, worth):
    """What unique data (or parameters) with so many repeats is worth."""
    return _effective(np.asarray(unique, float), repeats, worth)[0]


def loss(parameters: parametric.Parameters, params, tokens, unique=None):
    """L of `tokens` of which `unique` are different; all of them if None."""
    unique = tokens if unique is None else unique
    (unique_D, repeats_D), (unique_N, repeats_N) = split(parameters, params, tokens, unique)
    worth = effective(unique_N, repeats_N, parameters["R_N"]), effective(unique_D, repeats_D, parameters["R_D"])
    return parametric.loss(parameters, *worth)


exponents = parametric.exponents
optimum = parametric.optimum
