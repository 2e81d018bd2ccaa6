"""A feed-forward of which every token uses a few parts: mixture of experts."""

import fractions
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import PartitionSpec

from taxonomy import registry, sharding
from taxonomy.errors import UserError, nearest
from taxonomy.layers.context import Context
from taxonomy.layers.params import MATRIX_ROLES, Declared
from taxonomy.layers.routers import Routed, load
from taxonomy.layers.routing import Routing, sow
from taxonomy.ops import layouts
from taxonomy.ops.grouped_matmul import Groups
from taxonomy.ops.layouts import Layout
from taxonomy.registry import Annotated, Component, component

Router = Annotated[Component, ("router",)]
FeedForward = Annotated[Component, ("feedforward",)]

# How rows without a capacity are multiplied; "auto" takes what is fastest where it runs.
IMPLEMENTATIONS = ("auto", "blocks", "ragged")


@component("moe", kind="feedforward", paper="Shazeer et al. 2017, arXiv:1701.06538, eq. 1; Dai et al. 2024, arXiv:2401.06066")
class MixtureOfExperts(nn.Module):
    """The sum of what the experts that a router chose make of a token, weighted; plus what `shared` makes of all tokens.

    capacity: an expert takes at most so many times its even share of a row's assignments, the rest are dropped and pass by the
    layer; None drops nothing. evaluation_capacity: the same when not training. slots: the number of assignments itself, instead. A
    row is what papers call a group: its documents share the room, so with any bound what is dropped of one depends on those before
    it, and a text read in pieces, or token by token, is not bounded as one read at once. weigh: whether weights multiply what an
    expert gives or what it gets.
    """

    experts: int
    top_k: int
    router: Router
    expert: FeedForward
    shared: FeedForward | None = None
    capacity: float | None = None
    evaluation_capacity: float | None = None
    slots: int | None = None
    weigh: Literal["output", "input"] = "output"

    def check(self) -> None:
        if self.experts < 1:
            raise ValueError(f"experts={self.experts} must be at least 1")
        if self.expert.name == "moe" or self.expert.get("inner_norm"):
            raise ValueError(f"expert={self.expert.name} must be a feed-forward of one stage, without an inner norm")
        for name in ("capacity", "evaluation_capacity", "slots"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0 (None drops nothing)")
        for name in ("experts", "top_k"):
            if self.router[name] != getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)}, but its router has {name}={self.router[name]}")
        if self.slots is not None and (self.capacity or self.evaluation_capacity):
            raise ValueError("slots and capacity say the same: give one of them")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        routed = registry.instantiate(self.router, name="router")(x_BTD, context)
        layout = self._layout(routed, x_BTD.shape[1], context)
        self._sow(routed, layout)
        if isinstance(layout, layouts.WithOverflow):
            y_BTD = self._with_overflow(x_BTD, layout)
        else:
            rows = layout.gather(x_BTD, self.weigh == "input")
            y = registry.instantiate(self.expert, name="experts")(rows, context.replace(groups=layout.groups))
            y_BTD = layout.scatter(y, x_BTD, self.weigh == "output")
        if self.shared is not None:
            y_BTD = y_BTD + registry.instantiate(self.shared, name="shared")(x_BTD, context)
        return y_BTD

    def _layout(self, routed: Routed, time: int, context: Context) -> Layout:
        assignments, implementation = routed.assignments, _implementation(context.experts)
        factor = self._factor(context.train)
        if factor is None and self.slots is None:
            return layouts.dropless(assignments, self.experts, time, implementation)
        # Padding is given no room, so that a text is treated alike however long the row is that it stands in.
        room_T = np.array([self._slots(tokens, factor) for tokens in range(time + 1)])
        return layouts.with_capacity(assignments, self.experts, int(room_T[-1]), jnp.asarray(room_T)[routed.live_BT.sum(1)])

    def _with_overflow(self, x_BTD: jax.Array, layout: layouts.WithOverflow) -> jax.Array:
        """What experts make of the tokens, those beyond their slots in a loop."""
        if self.is_initializing():
            one_each = jnp.zeros((self.experts, 1, x_BTD.shape[2]), x_BTD.dtype)
            registry.instantiate(self.expert, name="experts")(one_each, _alone(self.experts))
        declared = self._of_one(x_BTD.shape[2])
        batch = sharding.RULES["batch"]
        hidden = sharding.place("mlp", self.expert["d_ff"], gathered=batch)
        module = registry.instantiate(self.expert.replace(d_ff=self.expert["d_ff"] // sharding.over(hidden)), parent=None)
        if hidden and not module.elementwise:
            raise UserError(f"config.mesh: the hidden layer of expert={self.expert.name} cannot stand over {', '.join(hidden)}")

        def experts(params, rows_EMD):
            # Every device adds its part of the sum, so also of what all of them have.
            whole = lambda box, p: p if "mlp" in box.names else p / sharding.over(hidden)  # noqa: E731
            return module.apply({"params": jax.tree.map(whole, declared, params, is_leaf=_is_box)}, rows_EMD, _alone(len(rows_EMD)))

        def place(box):
            places = (sharding.place(name, size, batch) for name, size in zip(box.names, box.value.shape, strict=True))
            return PartitionSpec(layout.peers.experts, *places)

        params = meta.unbox(self.get_variable("params", "experts"))
        places = jax.tree.map(place, declared, is_leaf=_is_box)
        return layout.compute(experts, params, places, hidden, x_BTD, self.weigh == "input")

    def takes_all(self, tokens: int) -> bool:
        """Whether no expert drops any of a row of at most so many tokens when not training."""
        factor = self._factor(train=False)
        bounded = factor is not None or self.slots is not None
        return not bounded or all(self._slots(n, factor) >= n for n in range(1, tokens + 1))

    def _factor(self, train: bool) -> float | None:
        return self.capacity if train or self.evaluation_capacity is None else self.evaluation_capacity

    def _slots(self, tokens: int, factor: float | None) -> int:
        """How many of a row's tokens an expert takes."""
        if factor is None:
            return min(tokens, self.slots)
        # Exactly: 10 tokens times 1.1 are 11 slots, but more than 11 in floating point.
        return min(tokens, math.ceil(tokens * self.top_k * fractions.Fraction(str(factor)) / self.experts))

    def _sow(self, routed: Routed, layout: Layout) -> None:
        load_E = load(routed.assignments, self.experts).sum(0)
        entropy_BT = -jnp.sum(jax.scipy.special.xlogy(routed.probabilities_BTE, routed.probabilities_BTE), -1)
        of_live_BT = routed.live_BT.astype(jnp.float32)
        found = jax.lax.stop_gradient((load_E, layout.dropped(), jnp.sum(entropy_BT * of_live_BT), of_live_BT.sum()))
        rate = self.router.get("bias_rate")
        sow(self, Routing(routed.loss_B, *(jnp.asarray(one, jnp.float32) for one in found), rate))

    def inactive_parameters(self, d_model: int) -> int:
        """Parameters of the experts that a token does not go to."""
        return (self.experts - self.top_k) * sum(one.value.size for one in self._leaves(d_model))

    def idle_elements(self, d_model: int) -> int:
        """Those of them that would be multiplied by."""
        of_one = sum(one.value.size for one in self._leaves(d_model) if one.role in MATRIX_ROLES)
        return (self.experts - self.top_k) * of_one

    def _leaves(self, d_model: int) -> list[Declared]:
        return jax.tree.leaves(self._of_one(d_model), is_leaf=_is_box)

    def _of_one(self, d_model: int) -> dict[str, Declared]:
        """The declared parameters of one expert."""
        module = registry.instantiate(self.expert, parent=None)

        def init():
            return module.init(jax.random.key(0), jnp.zeros((1, 1, d_model)), Context(jnp.zeros((1, 1), jnp.int32)))

        return jax.eval_shape(init)["params"]


def _is_box(leaf) -> bool:
    return isinstance(leaf, Declared)


def _alone(experts: int) -> Context:
    """What experts are told of rows (E, M, D)."""
    return Context(jnp.zeros((1, 1), jnp.int32), groups=Groups(experts))


def _implementation(name: str) -> str:
    if name not in IMPLEMENTATIONS:
        raise UserError(f"experts: unknown implementation '{name}'{nearest(name, IMPLEMENTATIONS)}")
    if name != "auto":
        return name
    return "ragged" if jax.default_backend() == "tpu" else "blocks"
