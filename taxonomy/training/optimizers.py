"""Optimizers from optax, with the masks and axes that follow from how parameters were declared.

Every optimizer is built at a learning rate of one; the step multiplies its update by the schedule's value.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from taxonomy.layers import parametrizations
from taxonomy.layers.params import MATRIX_ROLES, Declared
from taxonomy.registry import component


def _is_declared(x: Any) -> bool:
    return isinstance(x, Declared)


def roles(declared: Any) -> Any:
    """The role of every parameter, as a tree like the parameters."""
    return jax.tree.map(lambda d: d.role, declared, is_leaf=_is_declared)


def decay_mask(declared: Any) -> Any:
    """True where weight decay acts: everything but gains and biases."""
    return jax.tree.map(lambda d: d.role not in ("gain", "bias", "selection"), declared, is_leaf=_is_declared)


def _stacked(declared: Declared, *names: str) -> int:
    """How many leading axes hold several parameters of these kinds."""
    return sum(name in names for name in declared.names)


def _by_width(declared: Any, rate: Callable[[Declared], float]) -> list[optax.GradientTransformation]:
    """The multiplication of every update by the `rate` of its parameter, where there is one that is not one."""
    rates = jax.tree.map(rate, declared, is_leaf=_is_declared)
    if all(one == 1.0 for one in jax.tree.leaves(rates)):
        return []
    return [optax.stateless(lambda updates, _: jax.tree.map(lambda one, u: one * u, rates, updates))]


def _adam_rate(declared: Declared) -> float:
    return parametrizations.rate(declared.role, declared.growth_in)


def _widest(declared: Any) -> float:
    """How many times the base's the width is. Gradients, which are sums over all that follows, are smaller by this."""
    boxes = jax.tree.leaves(declared, is_leaf=_is_declared)
    return max((box.growth_in for box in boxes if box.growth_in != 1.0), default=1.0)


class Optimizer:
    """An optax transformation for parameters declared as they are."""

    def check(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("b1", "b2", "beta") and not 0 <= value < 1:
                raise ValueError(f"{f.name}={value} must be in [0, 1)")
            if f.name in ("eps", "weight_decay") and value < 0:
                raise ValueError(f"{f.name}={value} must not be negative")

    def transform(self, declared: Any) -> optax.GradientTransformation:
        """The update at a learning rate of one, for the tree of `Declared` parameters."""
        raise TypeError("a subclass defines the transformation")

    def scaled(self, updates: Any, params: Any, learning_rate: jax.Array, declared: Any) -> Any:
        """The update at this learning rate."""
        return jax.tree.map(lambda u: learning_rate * u, updates)


@component("adamw", kind="optimizer", paper="Kingma & Ba 2014, arXiv:1412.6980; Loshchilov & Hutter 2017, arXiv:1711.05101")
@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def transform(self, declared: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps / _widest(declared)),
            *_by_width(declared, _adam_rate),
            optax.add_decayed_weights(self.weight_decay, decay_mask(declared)),
            optax.scale_by_learning_rate(1.0),
        )


@component("adafactor", kind="optimizer", paper="Shazeer & Stern 2018, arXiv:1804.04235")
@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Second moments kept as row and column means, updates relative to each parameter's scale.

    factored=False keeps whole second moments. decay_by_square: weights shrink by weight_decay times the squared learning rate.
    """

    b1: float = 0.0
    decay: float = 0.8
    factored: bool = True
    weight_decay: float = 0.0
    decay_by_square: bool = False

    def transform(self, declared: Any) -> optax.GradientTransformation:
        steps = [optax.scale_by_factored_rms(self.factored, self.decay), _relative_to_parameters(declared)]
        if self.b1:
            steps.append(optax.ema(self.b1, debias=False))
        # Its updates have the size of their parameters, which says a part of what the rate would.
        relative = lambda d: _adam_rate(d) / parametrizations.spread(d.role, d.growth_in)  # noqa: E731
        steps += _by_width(declared, relative)
        if self.weight_decay and not self.decay_by_square:
            steps.append(optax.add_decayed_weights(self.weight_decay, decay_mask(declared)))
        return optax.chain(*steps, optax.scale(-1.0))

    def scaled(self, updates: Any, params: Any, learning_rate: jax.Array, declared: Any) -> Any:
        updates = super().scaled(updates, params, learning_rate, declared)
        if not (self.weight_decay and self.decay_by_square):
            return updates
        rate = self.weight_decay * jnp.square(learning_rate)
        return jax.tree.map(lambda u, p, decays: u - rate * p if decays else u, updates, params, decay_mask(declared))


def _relative_to_parameters(declared: Any, smallest: float = 1e-3) -> optax.GradientTransformation:
    """Clips each layer's update to a root mean square of one and multiplies it by that of the parameter."""

    def one(d: Declared, update: jax.Array, parameter: jax.Array) -> jax.Array:
        axes = tuple(range(_stacked(d, "layers", "tracks"), update.ndim))
        size = lambda x: jnp.sqrt(jnp.mean(jnp.square(x), axes, keepdims=True))  # noqa: E731
        least = smallest * parametrizations.spread(d.role, d.growth_in)
        return update / jnp.maximum(1.0, size(update)) * jnp.maximum(size(parameter), least)

    return optax.stateless(lambda updates, params: jax.tree.map(one, declared, updates, params, is_leaf=_is_declared))


@component("lion", kind="optimizer", paper="Chen et al. 2023, arXiv:2302.06675")
@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of an interpolated momentum, with decoupled weight decay."""

    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.0

    def transform(self, declared: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_lion(self.b1, self.b2),
            *_by_width(declared, _adam_rate),
            optax.add_decayed_weights(self.weight_decay, decay_mask(declared)),
            optax.scale_by_learning_rate(1.0),
        )


@component("muon", kind="optimizer", paper="Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982 (scale)")
@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonalised momentum for the projections inside the stack, AdamW for tables, head, gains and biases.

    scale: the root mean square that both updates are brought to, so that one learning rate serves both.
    """

    beta: float = 0.95
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    scale: float = 0.2

    def transform(self, declared: Any) -> optax.GradientTransformation:
        axes = jax.tree.map(lambda d: _matrix_axes(d) or optax.MaskedNode(), declared, is_leaf=_is_declared)
        labels = jax.tree.map(lambda d: "muon" if _matrix_axes(d) else "adam", declared, is_leaf=_is_declared)
        # Not optax's own split: its Adam has Nesterov's momentum too, and decays gains and biases.
        muon = optax.contrib.muon(1.0, beta=self.beta, muon_weight_dimension_numbers=axes, consistent_rms=self.scale)
        moved = optax.partition({"muon": muon, "adam": optax.adam(1.0, self.b1, self.b2, 1e-8 / _widest(declared))}, labels)
        decay = optax.add_decayed_weights(-self.weight_decay, decay_mask(declared))
        return optax.chain(moved, *_by_width(declared, _muon_rate), decay)


def _matrix_axes(declared: Declared) -> optax.contrib.MuonDimensionNumbers | None:
    """The input and output axes of a projection inside the stack; None for other parameters."""
    if declared.role not in MATRIX_ROLES or declared.role == "output":
        return None
    shape, first = declared.value.shape, _stacked(declared, "layers", "tracks", "experts")
    inputs, size = first, 1
    while size < declared.fan_in:
        size *= shape[inputs]
        inputs += 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(first, inputs)), tuple(range(inputs, len(shape))))


def _muon_rate(declared: Declared) -> float:
    """As Adam's, but for orthogonal updates brought to one root mean square, whose largest singular value is too large at a width.

    It should go with sqrt(fan_out / fan_in) (Yang et al. 2023, arXiv:2310.17813, condition 1) and goes with the root of the larger.
    """
    if _matrix_axes(declared) is None:
        return _adam_rate(declared)
    base_in, base_out = declared.fan_in / declared.growth_in, declared.fan_out / declared.growth_out
    larger = max(declared.fan_in, declared.fan_out) / max(base_in, base_out)
    return math.sqrt(declared.growth_out / declared.growth_in / larger)
