"""Loss of models trained on more tokens than their compute asks for: Gadre et al. 2024, arXiv:2403.08540, section 2.

L(C, M) = E + (a M^eta + b M^-eta) C^-eta with M = D/N tokens per parameter and C = 6 N D: at a fixed M the reducible loss falls
with compute by one exponent, whatever M is. Since C = 6 N^2 M, that is E + A / N^alpha + B / D^alpha with alpha = 2 eta, which is
how it is fitted here, by least squares of the losses as the paper does: one exponent less than `parametric`, and therefore few
runs.
"""

import dataclasses

import numpy as np

from taxonomy.scaling import parametric
from taxonomy.scaling.projection import projected_starts


@dataclasses.dataclass(frozen=True)
class Overtraining:
    """The law over given runs. A point is (a, b, log E, alpha), as in `parametric.Parametric`."""

    free: parametric.Parametric

    names = ("A", "B", "E", "alpha")
    plain = True

    @classmethod
    def of(cls, runs) -> "Overtraining":
        return cls(parametric.Parametric.of(runs))

    @property
    def log_loss_R(self) -> np.ndarray:
        return self.free.log_loss_R

    def log_losses(self, point_BP: np.ndarray):
        prediction_BR, pull = self.free.log_losses(point_BP[:, [0, 1, 2, 3, 3]])

        def tied(gradient_BR):
            gradient = pull(gradient_BR)
            return np.concatenate([gradient[:, :3], gradient[:, 3:].sum(1, keepdims=True)], axis=1)

        return prediction_BR, tied

    def parameters(self, point_BP: np.ndarray) -> dict[str, np.ndarray]:
        found = self.free.parameters(point_BP[:, [0, 1, 2, 3, 3]])
        return {name: found[name] for name in self.names}

    def point(self, parameters: parametric.Parameters) -> np.ndarray:
        return self.free.point(_both(parameters))[:4]

    def starts(self) -> np.ndarray:
        x_R, y_R = self.free.log_params_R, self.free.log_tokens_R
        best = projected_starts(x_R - x_R.mean(), y_R - y_R.mean(), np.exp(self.log_loss_R), tied=True)
        return np.array([(*np.log(terms), *alpha) for alpha, terms in best])


def loss(parameters: parametric.Parameters, params, tokens):
    """L(N, D)."""
    return parametric.loss(_both(parameters), params, tokens)


def exponents(parameters: parametric.Parameters) -> dict:
    """Of N*, D* and the reducible loss: 1/2, 1/2 and -eta."""
    return parametric.exponents(_both(parameters))


def optimum(parameters: parametric.Parameters, flops) -> tuple:
    """N*, D* of C = 6 N D."""
    return parametric.optimum(_both(parameters), flops)


def published_form(parameters: parametric.Parameters) -> dict:
    """The paper's a, b and eta of L(C, M)."""
    eta = parameters["alpha"] / 2
    return {"a": parameters["A"] * 6**eta, "b": parameters["B"] * 6**eta, "eta": eta}


def _both(parameters: parametric.Parameters) -> dict:
    return {**parameters, "beta": parameters["alpha"]}
