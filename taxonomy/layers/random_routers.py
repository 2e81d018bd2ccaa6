"""Routers that leave a part of the choice to chance while training."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.layers.context import Context
from taxonomy.layers.routers import Routed, TokenChoice, load, real, totals
from taxonomy.ops import dispatch
from taxonomy.registry import component


@component("noisy_top_k", kind="router", paper="Shazeer et al. 2017, arXiv:1701.06538, eqs. 3 to 11")
class NoisyTopK(TokenChoice, kw_only=True):
    """A softmax over the top_k highest scores, to which noise of a learned size is added while training.

    importance, load: weigh the squared coefficients of variation, among experts and in a row, of the sum of weights and of the
    expected number of tokens. Without noise the latter is the number itself.
    """

    importance: float = 0.0
    load: float = 0.0

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> Routed:
        clean_BTE, live_BT = self.scores(x_BTD, context), real(context)
        size_BTE = jax.nn.softplus(self.projected(x_BTD.astype(jnp.float32), "noise"))
        noisy_BTE = clean_BTE
        if context.train:
            noisy_BTE = clean_BTE + size_BTE * jax.random.normal(self.make_rng("dropout"), clean_BTE.shape)
        # One more than are chosen, for the threshold of those that are.
        best_BTC, experts_BTC = dispatch.top_k(noisy_BTE, min(self.top_k + 1, self.experts))
        weights_BTC = jax.nn.softmax(best_BTC[..., : self.top_k], -1)
        live_BTC = jnp.broadcast_to(live_BT[..., None], weights_BTC.shape)
        assignments = dispatch.by_token(experts_BTC[..., : self.top_k], weights_BTC, live_BTC)
        probabilities_BTE, load_BE = jax.nn.softmax(noisy_BTE, -1), load(assignments, self.experts)
        loss_B = self.losses(clean_BTE, probabilities_BTE, load_BE, live_BT)
        if self.importance:
            loss_B += self.importance * _squared_variation(totals(assignments, assignments.weights_BA, self.experts))
        if self.load:
            if context.train and self.top_k < self.experts:
                load_BE = self._expected_load(clean_BTE, noisy_BTE, size_BTE, best_BTC, live_BT)
            loss_B += self.load * _squared_variation(load_BE)
        return Routed(assignments, loss_B, probabilities_BTE, live_BT)

    def _expected_load(self, clean_BTE, noisy_BTE, size_BTE, best_BTC, live_BT) -> jax.Array:
        """How many tokens would go to each expert, (B, E), if its noise alone was drawn again (eqs. 8 to 10)."""
        last_BT1, next_BT1 = best_BTC[..., -2:-1], best_BTC[..., -1:]
        # The top_k-th highest score of the other experts.
        threshold_BTE = jnp.where(noisy_BTE >= last_BT1, next_BT1, last_BT1)
        # Far out a softplus is zero.
        chosen_BTE = jax.scipy.stats.norm.cdf((clean_BTE - threshold_BTE) / jnp.maximum(size_BTE, 1e-6))
        return jnp.where(live_BT[..., None], chosen_BTE, 0.0).sum(1)


@component("top2", kind="router", paper="Lepikhin et al. 2020, arXiv:2006.16668, Algorithm 1")
class Top2(TokenChoice, kw_only=True):
    """The two experts of highest probability; while training the second one at random, the likelier the higher its weight.

    Weights sum to one, and a second expert of weight g is taken with probability min(1, 2 g). `balance` counts first choices only;
    it weighs E^2 times the paper's loss, as others do. First choices of all tokens come before second ones: where there is a
    capacity, a later token may take the place of an earlier one's second choice.
    """

    def check(self) -> None:
        super().check()
        self.check_top_k(2)

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> Routed:
        scores_BTE, live_BT = self.scores(x_BTD, context), real(context)
        probabilities_BTE = jax.nn.softmax(scores_BTE, -1)
        weights_BTC, experts_BTC = dispatch.top_k(probabilities_BTE, 2)
        weights_BTC = weights_BTC / (weights_BTC.sum(-1, keepdims=True) + 1e-20)
        taken_BT = live_BT
        if context.train:
            taken_BT &= 2 * weights_BTC[..., 1] > jax.random.uniform(self.make_rng("dropout"), live_BT.shape)
        live_BTC = jnp.stack([live_BT, taken_BT], -1)
        assignments = dispatch.by_token(experts_BTC, weights_BTC, live_BTC, choices_first=True)
        first = dispatch.by_token(experts_BTC[..., :1], weights_BTC[..., :1], live_BTC[..., :1])
        loss_B = self.losses(scores_BTE, probabilities_BTE, load(first, self.experts), live_BT)
        return Routed(assignments, loss_B, probabilities_BTE, live_BT)


def _squared_variation(a_BE: jax.Array) -> jax.Array:
    """The squared coefficient of variation among experts, (B,)."""
    return a_BE.var(1) / jnp.maximum(jnp.square(a_BE.mean(1)), 1e-10)
