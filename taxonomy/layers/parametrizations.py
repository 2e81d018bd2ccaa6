"""How initial values, multipliers and learning rates follow a model's width, by what each parameter is for.

Without a parametrization, which is the standard one, sentences mean what they say at the model's own width. With `mup` they mean
it at the width of a base model, and a wider model differs from what they say there in this (Yang et al. 2022, arXiv:2203.03466,
Tables 3 and 8), derived from the declaration of each parameter, whose fan-in is g times the base's:

    what multiplies tokens inside the stack   initial values / sqrt(g)   learning rate / g
    a router, whose outputs are few           initial values / g         learning rate / g
    a head, also one of a tied table          both as in the base; its logits are divided by g
    tables, gains, biases                     both as in the base

Scores of attention are divided by how many times the base's a head's width is, so that they go with 1/d instead of 1/sqrt(d).
"""

import dataclasses
import math
from collections.abc import Mapping

import jax

from taxonomy.errors import nearest
from taxonomy.layers.initializers import Initializer
from taxonomy.registry import Component, Init, component, instantiate

# Logical axes that a wider model has more of; "latent" is what compressed keys and values are.
AXES = ("embed", "mlp", "heads", "kv_heads", "head_dim", "latent")
# The numbers of sentences that go with them.
_NUMBERS = {"d_ff": "mlp", "kv_rank": "latent", "query_rank": "latent"} | {name: name for name in ("heads", "kv_heads", "head_dim")}
# What multiplies something as wide as the model; "relative" are distances, made of as many waves or of a few numbers.
_HIDDEN = ("query", "key", "value", "mlp", "residual", "relative")


def spread(role: str, growth: float) -> float:
    """What initial values are multiplied by where the fan-in is `growth` times the base's."""
    if role in _HIDDEN:
        return growth**-0.5
    return 1.0 / growth if role == "router" else 1.0


def rate(role: str, growth: float) -> float:
    """What the learning rate is multiplied by, for an optimizer whose updates do not depend on the size of gradients (Adam)."""
    return 1.0 / growth if role in (*_HIDDEN, "router") else 1.0


def _growth(axis: str | None, width: float, head_dim: float) -> float:
    """How many times the base's an axis is in a model `width` times as wide with heads `head_dim` times as wide."""
    if axis in ("heads", "kv_heads"):
        return width / head_dim
    return head_dim if axis == "head_dim" else width if axis in AXES else 1.0


@component("mup", kind="parametrization", paper="Yang et al. 2022, arXiv:2203.03466, Tables 3 and 8")
@dataclasses.dataclass(frozen=True)
class MaximalUpdate:
    """Activations and their changes keep their size at any width, and so the best learning rate stays where it is.

    d_model: the base's. head_dim: the base's, where a wider model has wider heads; None: it has more of them. All widths of the
    model are taken to go with d_model, except those of the axes that are `fixed`.
    """

    d_model: int
    head_dim: int | None = None
    fixed: tuple[str, ...] = ("latent",)

    def check(self) -> None:
        for name in ("d_model", "head_dim"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        for axis in self.fixed:
            if axis not in AXES:
                raise ValueError(f"fixed: unknown axis '{axis}'{nearest(axis, AXES)}")

    def output_scale(self, d_model: int) -> float:
        """What the logits of a model of this width are multiplied by."""
        return self.d_model / d_model

    def of_base(self, scalars: Mapping[str, int | float], d_model: int) -> dict[str, int | float]:
        """The numbers that a sentence of a model of this width may use, as they are in the base."""
        width, found = d_model / self.d_model, dict(scalars)
        head_dim = found["head_dim"] / self.head_dim if self.head_dim and "head_dim" in found else 1.0
        for name, axis in _NUMBERS.items():
            if name in found and axis not in self.fixed:
                found[name] = found[name] / _growth(axis, width, head_dim)
        # An embedding may have a width of its own by this name.
        return found | ({"d_model": self.d_model} if found.get("d_model") == d_model else {})

    def adapted(self, part: Component, d_model: int, head_dim: float = 1.0) -> Component:
        """A component of a model of this width whose heads are `head_dim` times as wide as the base's."""
        if part.kind == "init":
            given = {"base": part, "width": d_model / self.d_model, "head_dim": head_dim, "fixed": self.fixed}
            return Component("init", "grown", tuple(given.items()), part.label)
        changes = {}
        if part.kind == "attention" and self.head_dim is not None:
            head_dim = part["head_dim"] / self.head_dim
            changes["scale"] = part["scale"] / head_dim
        for name, value in part.arguments:
            if isinstance(value, Component):
                changes[name] = self.adapted(value, d_model, head_dim)
            elif isinstance(value, tuple) and any(isinstance(item, Component) for item in value):
                changes[name] = tuple(self.adapted(item, d_model, head_dim) for item in value)
        return part.replace(**changes)


@component("grown", kind="init", paper="Yang et al. 2022, arXiv:2203.03466, Table 8")
@dataclasses.dataclass(frozen=True)
class Grown(Initializer):
    """Another initialiser in a model `width` times as wide, with heads `head_dim` times as wide, as that which it is meant for."""

    base: Init
    width: float
    head_dim: float = 1.0
    fixed: tuple[str, ...] = ()

    def __call__(self, key: jax.Array, shape: tuple[int, ...], role: str, fan_in: float, fan_out: float) -> jax.Array:
        return instantiate(self.base)(key, shape, role, fan_in, fan_out)

    def growth(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> float:
        # The one head of keys that all heads share is one in the base, too.
        growing = (axis for axis, size in zip(axes, shape, strict=True) if axis not in self.fixed and size > 1)
        return math.prod(_growth(axis, self.width, self.head_dim) for axis in growing)
