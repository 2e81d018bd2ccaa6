"""Loss as a sum of powers of parameters and tokens: approach 3 of Hoffmann et al. 2022, arXiv:2203.15556, section 3.3.

L(N, D) = E + A / N^alpha + B / D^beta. Fitted as log L = LSE(log A - alpha log N, log B - beta log D, log E), as that paper does;
Besiroglu et al. 2024, arXiv:2404.10102, say how the optimizer can stop short of the optimum. The compute-optimal split of C FLOPs
under C = 6 N D is N* = G (C/6)^(beta/(alpha+beta)) with G = (alpha A / (beta B))^(1/(alpha+beta)), and D* = C / (6 N*).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from taxonomy.scaling.projection import projected_starts

Parameters = Mapping[str, np.ndarray | float]


@dataclasses.dataclass(frozen=True)
class Parametric:
    """The law over given runs. A point is (a, b, log E, alpha, beta); a, b are logarithms of the terms at the runs' mean N, D."""

    log_params_R: np.ndarray
    log_tokens_R: np.ndarray
    log_loss_R: np.ndarray

    names = ("A", "B", "E", "alpha", "beta")
    plain = False

    @classmethod
    def of(cls, runs) -> "Parametric":
        return cls(np.log(runs.params), np.log(runs.tokens), np.log(runs.loss))

    def log_losses(self, point_BP: np.ndarray):
        """Predictions (B, R) and the function that turns gradients by them into gradients (B, P) by the point."""
        a, b, e, alpha, beta = point_BP.T[..., None]
        x_R, y_R = self.log_params_R - self.log_params_R.mean(), self.log_tokens_R - self.log_tokens_R.mean()
        of_params, of_tokens = a - alpha * x_R, b - beta * y_R
        largest = np.maximum(np.maximum(of_params, of_tokens), e)
        shares = np.exp(of_params - largest), np.exp(of_tokens - largest), np.exp(e - largest)
        total = shares[0] + shares[1] + shares[2]

        def pull(gradient_BR):
            scaled = gradient_BR / total
            by_params, by_tokens = scaled * shares[0], scaled * shares[1]
            floor = np.einsum("br,br->b", scaled, shares[2])
            columns = by_params.sum(1), by_tokens.sum(1), floor, -by_params @ x_R, -by_tokens @ y_R
            return np.stack(columns, axis=1)

        return largest + np.log(total), pull

    def parameters(self, point_BP: np.ndarray) -> dict[str, np.ndarray]:
        a, b, e, alpha, beta = point_BP.T
        log_A, log_B = a + alpha * self.log_params_R.mean(), b + beta * self.log_tokens_R.mean()
        return {"A": np.exp(log_A), "B": np.exp(log_B), "E": np.exp(e), "alpha": alpha, "beta": beta}

    def point(self, parameters: Parameters) -> np.ndarray:
        """The point (P,) of given parameters."""
        A, B, E, alpha, beta = (float(parameters[name]) for name in self.names)
        a, b = np.log(A) - alpha * self.log_params_R.mean(), np.log(B) - beta * self.log_tokens_R.mean()
        return np.array([a, b, np.log(E), alpha, beta])

    def starts(self) -> np.ndarray:
        """Where to start: the best of a grid of exponents, whose other parameters are least squares, and a coarse grid."""
        x_R, y_R = self.log_params_R - self.log_params_R.mean(), self.log_tokens_R - self.log_tokens_R.mean()
        rows = [
            (np.log(c[0]), np.log(c[1]), np.log(c[2]), *exponents)
            for exponents, c in projected_starts(x_R, y_R, np.exp(self.log_loss_R))
        ]
        loss = np.exp(self.log_loss_R)
        for alpha in (0.2, 0.5, 0.9):
            for share in (0.4, 0.85):
                rest = max(loss.mean() - share * loss.min(), 1e-6)
                rows += [(np.log(rest / 2), np.log(rest / 2), np.log(share * loss.min()), alpha, beta) for beta in (0.3, 0.7)]
        return np.array(rows)


def loss(parameters: Parameters, params, tokens):
    """L(N, D)."""
    p = parameters
    return p["E"] + p["A"] * np.asarray(params, float) ** -p["alpha"] + p["B"] * np.asarray(tokens, float) ** -p["beta"]


def exponents(parameters: Parameters) -> dict[str, np.ndarray | float]:
    """N* ~ C^params, D* ~ C^tokens, reducible loss ~ C^loss."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    return {"params": beta / (alpha + beta), "tokens": alpha / (alpha + beta), "loss": -alpha * beta / (alpha + beta)}


def optimum(parameters: Parameters, flops) -> tuple:
    """N*, D* of C = 6 N D; NaN where an exponent is not positive, so that there is none."""
    A, B, alpha, beta = (np.asarray(parameters[name], float) for name in ("A", "B", "alpha", "beta"))
    with np.errstate(all="ignore"):
        scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
        params = scale * (np.asarray(flops, float) / 6) ** (beta / (alpha + beta))
        return params, flops / 6 / params
