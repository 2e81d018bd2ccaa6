"""Mixture-of-Depths: a block that only some tokens of a row go through (Raposo et al. 2024, arXiv:2404.02258)."""

import fractions
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.layers import routing
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, project
from taxonomy.layers.routers import real
from taxonomy.ops import dispatch
from taxonomy.registry import Annotated, Component, Init, component

Inner = Annotated[Component, ("block",)]
# What the block inside is called among the parameters.
INSIDE = "block"


@component("depths", kind="block", paper="Raposo et al. 2024, arXiv:2404.02258, sections 3.2 to 3.5")
class Depths(nn.Module):
    """x + r f(x) for the tokens of a row that a router scores highest, x for the others; f(x) is what `block` adds to x.

    While training, that is the `capacity` share of a row with the largest r = w x: only these tokens are computed, and attend to
    each other alone. The choice is not causal, and packed documents share a row's room, so what is chosen of one depends on the
    others. Padding is never chosen. Otherwise a predictor decides for each token by itself: an MLP with a hidden layer of
    `d_predictor` that has learned from x, without a gradient to it, whether a token is among them (binary cross-entropy). Tokens
    that pass by are neither attended to nor cached in this layer. With experts in the block this is the paper's staged MoDE; its
    integrated one, a router with an expert that does nothing, is not here.
    """

    block: Inner
    capacity: float
    d_predictor: int
    initializer: Init

    leaves_stream_unnormalised = True
    learns_apart = ("predictor",)  # has no gradient but that of a loss of its own, while training

    @property
    def share(self) -> float:
        """Of the tokens, how many go through."""
        return self.capacity

    def check(self) -> None:
        if not 0 < self.capacity <= 1:
            raise ValueError(f"capacity={self.capacity} must be above 0 and at most 1")
        if self.d_predictor < 1:
            raise ValueError(f"d_predictor={self.d_predictor} must be at least 1")
        for part in self.block.walk():
            if part.name == "depths" or (part.kind == "mask" and registry.instantiate(part).ordered):
                raise ValueError(f"block={self.block.name} must not have {part} inside")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        block = registry.instantiate(self.block, name=INSIDE)
        kernel_D1 = declare(self, "router", (x_BTD.shape[-1], 1), ("embed", None), "router", self.initializer)
        r_BT = jnp.einsum("btd,dn->btn", x_BTD.astype(jnp.float32), kernel_D1, precision=jax.lax.Precision.HIGHEST)[..., 0]
        logit_BT = Predictor(self.d_predictor, self.initializer, name="predictor")(x_BTD)
        if not context.train:
            chosen_BT = real(context) & (logit_BT > 0)
            y_BTD = block(x_BTD, _left(context, chosen_BT)) - x_BTD
            return x_BTD + jnp.where(chosen_BT[..., None], r_BT[..., None] * y_BTD, 0.0).astype(x_BTD.dtype)
        places_BC, live_BC = self._highest(r_BT, real(context))
        chosen_BCD, r_BC = _taken(x_BTD, places_BC), _taken(r_BT, places_BC)
        y_BCD = block(chosen_BCD, _narrowed(context, places_BC)) - chosen_BCD
        added_BCD = jnp.where(live_BC[..., None], r_BC[..., None] * y_BCD, 0.0)
        self._sow(logit_BT, _put(jnp.zeros_like(r_BT), places_BC, live_BC.astype(jnp.float32)), real(context))
        return _put(x_BTD, places_BC, added_BCD.astype(x_BTD.dtype))

    def _highest(self, r_BT: jax.Array, live_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Places (B, C) of the largest r of each row in the order of the row, and which of them are tokens."""
        room = math.ceil(fractions.Fraction(str(self.capacity)) * r_BT.shape[1])
        places_BC = jnp.sort(dispatch.top_k(jnp.where(live_BT, jax.lax.stop_gradient(r_BT), -jnp.inf), room)[1], axis=1)
        return places_BC, _taken(live_BT, places_BC)

    def _sow(self, logit_BT: jax.Array, chosen_BT: jax.Array, live_BT: jax.Array) -> None:
        """The predictor's loss, and how often it is right."""
        cost_BT = jax.nn.softplus(logit_BT) - logit_BT * chosen_BT
        loss_B = jnp.sum(jnp.where(live_BT, cost_BT, 0.0), 1) / jnp.maximum(live_BT.sum(1), 1)
        right_BT = ((logit_BT > 0) == (chosen_BT > 0)) & live_BT
        routing.sow(self, routing.Predicted(loss_B, *(jnp.sum(a, dtype=jnp.float32) for a in (right_BT, live_BT))))


class Predictor(nn.Module):
    """Whether a token will be chosen, by the sign of a number: a hidden layer with a ReLU, no gradient to what it reads."""

    d_hidden: int
    initializer: Component

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Float32 logits (B, T)."""
        x_BTD = jax.lax.stop_gradient(x_BTD).astype(jnp.float32)
        up_DF = declare(self, "up", (x_BTD.shape[-1], self.d_hidden), ("embed", "mlp"), "router", self.initializer)
        h_BTF = jax.nn.relu(project(x_BTD, up_DF, declare(self, "up_bias", (self.d_hidden,), ("mlp",), "bias")))
        down_F1 = declare(self, "down", (self.d_hidden, 1), ("mlp", None), "router", self.initializer)
        return project(h_BTF, down_F1, declare(self, "down_bias", (1,), (None,), "bias"))[..., 0]


def _taken(array: jax.Array, places_BC: jax.Array) -> jax.Array:
    """What stands at these places of each row, (B, C, ...)."""
    return jax.vmap(lambda row, places: row[places])(array, places_BC)


def _put(array: jax.Array, places_BC: jax.Array, added: jax.Array) -> jax.Array:
    """Rows with something added at these places."""
    return jax.vmap(lambda row, places, more: row.at[places].add(more))(array, places_BC, added)


def _narrowed(context: Context, places_BC: jax.Array) -> Context:
    """What a block is told of the tokens at these places."""
    of_tokens = ("positions_BT", "segments_BT", "prefix_BT", "types_BT", "tokens_BT")
    taken = {name: _taken(getattr(context, name), places_BC) for name in of_tokens if getattr(context, name) is not None}
    return context.replace(**taken, reach=context.reach or context.positions_BT.shape[1])


def _left(context: Context, chosen_BT: jax.Array) -> Context:
    """What a block is told where the other tokens are padding to it."""
    if context.cache_length is not None:
        return context.replace(positions_BT=jnp.where(chosen_BT, context.positions_BT, -1))
    segments_BT = jnp.int32(1) if context.segments_BT is None else context.segments_BT
    return context.replace(segments_BT=jnp.where(chosen_BT, segments_BT, 0))
