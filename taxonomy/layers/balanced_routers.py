"""Routers that give all experts of a row as many tokens, and so look at the whole row."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.layers.context import Context
from taxonomy.layers.routers import Routed, Scoring, real
from taxonomy.ops import assignment, dispatch
from taxonomy.ops.dispatch import Assignments
from taxonomy.registry import component


@component("expert_choice", kind="router", paper="Zhou et al. 2022, arXiv:2202.09368, section 3.2")
class ExpertChoice(Scoring, kw_only=True):
    """Experts choose tokens: each takes the ceil(n top_k / E) of a row's n tokens that are likeliest to want it.

    A token may have any number of experts, or none. It is not causal: whether a token is chosen depends on the later ones of its
    row, and on the other documents packed into it. So a text that is decoded token by token, each then a row by itself and taken
    by all experts, is not computed as it was in training.
    """

    causal = False

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> Routed:
        scores_BTE, live_BT = self.scores(x_BTD, context), real(context)
        probabilities_BTE = jax.nn.softmax(scores_BTE, -1)
        wanted_BET = jnp.where(live_BT[..., None], jax.lax.stop_gradient(probabilities_BTE), -1.0).swapaxes(1, 2)
        time = live_BT.shape[1]
        tokens_BEC = dispatch.top_k(wanted_BET, -(-time * self.top_k // self.experts))[1]
        taken_B11 = -(-live_BT.sum(1) * self.top_k // self.experts)[:, None, None]
        live_BEC = jnp.broadcast_to(jnp.arange(tokens_BEC.shape[2]) < taken_B11, tokens_BEC.shape)
        weights_BEC = jnp.take_along_axis(probabilities_BTE.swapaxes(1, 2), tokens_BEC, -1)
        experts_BEC = jnp.broadcast_to(jnp.arange(self.experts)[:, None], tokens_BEC.shape)
        flat = (a.reshape(a.shape[0], -1) for a in (tokens_BEC, experts_BEC, weights_BEC, live_BEC))
        return Routed(Assignments(*flat), self.z_loss(scores_BTE, live_BT), probabilities_BTE, live_BT)


class Balanced(Scoring, kw_only=True):
    """One expert for a token, weighted by the sigmoid of its score: while training one that keeps loads even, else the best."""

    causal = False

    def check(self) -> None:
        super().check()
        self.check_top_k(1)

    def evened(self, scores_BTE: jax.Array, live_BT: jax.Array) -> jax.Array:
        """The expert of each token while training, (B, T)."""
        raise TypeError("a subclass assigns")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> Routed:
        scores_BTE, live_BT = self.scores(x_BTD, context), real(context)
        fixed_BTE = jax.lax.stop_gradient(scores_BTE)
        experts_BT = self.evened(fixed_BTE, live_BT) if context.train else fixed_BTE.argmax(-1)
        weights_BT1 = jax.nn.sigmoid(jnp.take_along_axis(scores_BTE, experts_BT[..., None], -1))
        assignments = dispatch.by_token(experts_BT[..., None], weights_BT1, live_BT[..., None])
        return Routed(assignments, self.z_loss(scores_BTE, live_BT), jax.nn.softmax(scores_BTE, -1), live_BT)


@component("base", kind="router", paper="Lewis et al. 2021, arXiv:2103.16716, section 3")
class BalancedAssignment(Balanced, kw_only=True):
    """One expert for a token, weighted by the sigmoid of its score: the best assignment that is even while training, else the best.

    Even means that no expert has more than its share of a row's tokens, rounded up. While training it is not causal: a token's
    expert depends on the later ones of its row, and on the other documents packed into it.
    """

    def evened(self, scores_BTE: jax.Array, live_BT: jax.Array) -> jax.Array:
        return assignment.balanced(scores_BTE, live_BT)


@component("s_base", kind="router", paper="Clark et al. 2022, arXiv:2202.01169 (S-BASE)")
class SinkhornAssignment(Balanced, kw_only=True):
    """As `base`, but while training the expert that gets most of the token where all experts get equal shares of a row's tokens.

    Shares are even to a thousandth (`ops.assignment.shares`), whole tokens only nearly; a capacity bounds what an expert takes.
    While training it is not causal: a token's expert depends on the later ones of its row, and on the other documents packed into
    it.
    """

    def evened(self, scores_BTE: jax.Array, live_BT: jax.Array) -> jax.Array:
        return assignment.shares(scores_BTE, live_BT).argmax(-1)
