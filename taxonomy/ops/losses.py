"""What a prediction costs, and the slope of that cost, so that `cross_entropy` never keeps all logits for a backward pass."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.registry import component


class Loss(abc.ABC):
    """The cost of a token's prediction."""

    @abc.abstractmethod
    def cost(self, logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
        """Float32 (B, T)."""

    @abc.abstractmethod
    def slope(self, logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
        """d cost / d logits, float32 (B, T, V)."""


@component(
    "cross_entropy",
    kind="loss",
    paper="Vaswani et al. 2017, arXiv:1706.03762, section 5.4; Chowdhery et al. 2022, arXiv:2204.02311",
)
@dataclasses.dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log P(target) under softmax(logits / temperature), with smoothed labels and a penalty on the normaliser where wanted.

    z adds z (log Z)^2 (Chowdhery et al. 2022, arXiv:2204.02311, section 5). label_smoothing: the share of the target that is spread
    evenly over the whole vocabulary (Szegedy et al. 2015, arXiv:1512.00567, section 7). A temperature below 1 sharpens the
    distribution trained and so smooths the one sampled at 1, which keeps fine-tuning from overfitting (tempering, Dabre & Fujita
    2020; Li et al. 2022, arXiv:2203.07814, section 4.3).
    """

    z: float = 0.0
    label_smoothing: float = 0.0
    temperature: float = 1.0

    def check(self) -> None:
        if self.z < 0:
            raise ValueError(f"z={self.z} must not be negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be a share from 0 to below 1")
        _check_temperature(self.temperature)

    def cost(self, logits_BTV, targets_BT):
        y_BTV = self._tempered(logits_BTV)
        log_z = jax.nn.logsumexp(y_BTV, axis=-1)
        cost = log_z - at(y_BTV, targets_BT)
        if self.label_smoothing:
            cost = (1 - self.label_smoothing) * cost + self.label_smoothing * (log_z - y_BTV.mean(-1))
        return cost + self.z * jnp.square(log_z) if self.z else cost

    def slope(self, logits_BTV, targets_BT):
        y_BTV = self._tempered(logits_BTV)
        log_z = jax.nn.logsumexp(y_BTV, axis=-1)
        d = jnp.exp(y_BTV - log_z[..., None])
        if self.z:
            d = d * (1 + 2 * self.z * log_z)[..., None]
        wanted = is_target(y_BTV, targets_BT)
        if self.label_smoothing:
            wanted = (1 - self.label_smoothing) * wanted + self.label_smoothing / y_BTV.shape[-1]
        d = d - wanted
        return d if self.temperature == 1 else d / self.temperature

    def _tempered(self, logits_BTV: jax.Array) -> jax.Array:
        logits_BTV = logits_BTV.astype(jnp.float32)
        return logits_BTV if self.temperature == 1 else logits_BTV / self.temperature


# What is measured, whatever is trained with.
PLAIN = CrossEntropy()


@component("gold", kind="loss", paper="Pang & He 2020, arXiv:2009.07839; Li et al. 2022, arXiv:2203.07814, appendix C.3, eq. 1")
@dataclasses.dataclass(frozen=True)
class Gold(Loss):
    """max(P^power, floor) -log P under softmax(logits / temperature): tokens that the model finds unlikely count less.

    So it need not cover every solution. What tells right from wrong ones is part of the text (value conditioning, the objective
    `control_tokens`), so that wrong ones are learned as such (Li et al. 2022, arXiv:2203.07814, section 4.3).
    """

    temperature: float = 0.2
    power: float = 0.5
    floor: float = 0.05

    def check(self) -> None:
        _check_temperature(self.temperature)
        if self.power < 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"power={self.power} must not be negative, floor={self.floor} must be from 0 to 1")

    @property
    def unweighted(self) -> CrossEntropy:
        return CrossEntropy(temperature=self.temperature)

    def weights(self, cost_BT: jax.Array) -> jax.Array:
        """How much tokens of probability P = exp(-cost) count, float32 (B, T), without a gradient."""
        return jax.lax.stop_gradient(jnp.maximum(jnp.exp(-self.power * cost_BT), self.floor))

    def cost(self, logits_BTV, targets_BT):
        cost_BT = self.unweighted.cost(logits_BTV, targets_BT)
        return self.weights(cost_BT) * cost_BT

    def slope(self, logits_BTV, targets_BT):
        weights_BT = self.weights(self.unweighted.cost(logits_BTV, targets_BT))
        return weights_BT[..., None] * self.unweighted.slope(logits_BTV, targets_BT)


def is_target(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Where the target is, bool (B, T, V). A comparison instead of a gather: it stays local when the vocabulary is sharded."""
    return jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]


def at(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """The logits of the targets, (B, T)."""
    return jnp.sum(jnp.where(is_target(logits_BTV, targets_BT), logits_BTV, 0.0), axis=-1)


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0")
