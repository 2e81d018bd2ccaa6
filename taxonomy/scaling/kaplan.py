"""The laws of Kaplan et al. 2020, arXiv:2001.08361: loss without a floor, in parameters without embeddings.

L(N, D) = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D (their equation 1.5). Their N is 2 d L (2 d_attn + d_ff): no tables, no
head, no biases, no norms; a fit to runs counted otherwise answers another question, so say which count is fitted.
"""

import dataclasses
import itertools

import numpy as np

from taxonomy.scaling import parametric


@dataclasses.dataclass(frozen=True)
class Kaplan:
    """The law over given runs. A point is (s n, s d, r, log s): log L = s LSE(n - r log N, d - log D) about the runs' mean N, D."""

    log_params_R: np.ndarray
    log_tokens_R: np.ndarray
    log_loss_R: np.ndarray

    names = ("N_c", "D_c", "alpha_N", "alpha_D")
    plain = False

    @classmethod
    def of(cls, runs) -> "Kaplan":
        return cls(np.log(runs.params), np.log(runs.tokens), np.log(runs.loss))

    def log_losses(self, point_BP: np.ndarray):
        ratio, power = point_BP.T[2][:, None], np.exp(point_BP.T[3])[:, None]
        n, d = point_BP.T[:2, :, None] / power
        x_R, y_R = self.log_params_R - self.log_params_R.mean(), self.log_tokens_R - self.log_tokens_R.mean()
        of_params, of_tokens = n - ratio * x_R, d - y_R
        total = np.logaddexp(of_params, of_tokens)
        share = np.exp(of_params - total)

        def pull(gradient_BR):
            by_params, by_tokens = gradient_BR * share, gradient_BR * (1 - share)
            by_power = power * ((gradient_BR * total) - by_params * n - by_tokens * d)
            columns = by_params.sum(1), by_tokens.sum(1), -power[:, 0] * (by_params @ x_R), by_power.sum(1)
            return np.stack(columns, axis=1)

        return power * total, pull

    def parameters(self, point_BP: np.ndarray) -> dict[str, np.ndarray]:
        ratio, power = point_BP.T[2], np.exp(point_BP.T[3])
        n, d = point_BP.T[:2] / power
        with np.errstate(over="ignore"):
            N_c = np.exp(n / ratio + self.log_params_R.mean())
            return {"N_c": N_c, "D_c": np.exp(d + self.log_tokens_R.mean()), "alpha_N": ratio * power, "alpha_D": power}

    def point(self, parameters: parametric.Parameters) -> np.ndarray:
        N_c, D_c, alpha_N, alpha_D = (float(parameters[name]) for name in self.names)
        ratio = alpha_N / alpha_D
        n, d = ratio * (np.log(N_c) - self.log_params_R.mean()), np.log(D_c) - self.log_tokens_R.mean()
        return np.array([alpha_D * n, alpha_D * d, ratio, np.log(alpha_D)])

    def starts(self) -> np.ndarray:
        """Both terms alike at the middle of the runs, for pairs of exponents."""
        middle = self.log_loss_R.mean()
        pairs = list(itertools.product((0.4, 0.8, 1.6), (0.05, 0.1, 0.3)))
        rest = [middle - power * np.log(2) for _, power in pairs]
        return np.array([(one, one, ratio, np.log(power)) for one, (ratio, power) in zip(rest, pairs, strict=True)])


def loss(parameters: parametric.Parameters, params, tokens):
    """L(N, D) in nats."""
    p = parameters
    of_params = (p["N_c"] / np.asarray(params, float)) ** (p["alpha_N"] / p["alpha_D"])
    return (of_params + p["D_c"] / np.asarray(tokens, float)) ** p["alpha_D"]


def exponents(parameters: parametric.Parameters) -> dict:
    """N* ~ C^params, D* ~ C^tokens, L ~ C^loss of runs trained to this law's optimum."""
    inner = parametric.exponents(_inside(parameters))
    return inner | {"loss": inner["loss"] * parameters["alpha_D"]}


def optimum(parameters: parametric.Parameters, flops) -> tuple:
    """N*, D* of C = 6 N D: what is raised to alpha_D is a sum of powers of N and D."""
    return parametric.optimum(_inside(parameters), flops)


def _inside(parameters: parametric.Parameters) -> dict:
    ratio = parameters["alpha_N"] / parameters["alpha_D"]
    return {"A": parameters["N_c"] ** ratio, "B": parameters["D_c"], "alpha": ratio, "beta": np.ones_like(ratio)}


def loss_of_params(params):
    """L(N) = (8.8e13/N)^0.076 of models trained to convergence on enough data (their equation 1.1)."""
    return (8.8e13 / np.asarray(params, float)) ** 0.076


def body_parameters(layers: int, d_model: int, d_attention: int | None = None, d_ff: int | None = None) -> int:
    """N = 2 d L (2 d_attn + d_ff): no tables, no head, no biases, no norms (table 1)."""
    return 2 * d_model * layers * (2 * (d_attention or d_model) + (d_ff or 4 * d_model))


def forward_flops_per_token(params: int, layers: int, context: int, d_attention: int) -> int:
    """2 N + 2 L n_ctx d_attn (table 1)."""
    return 2 * params + 2 * layers * context * d_attention
