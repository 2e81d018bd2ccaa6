"""Routers: which experts a token goes to, and how much each of them counts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from taxonomy.layers.context import Context
from taxonomy.layers.params import declare
from taxonomy.ops import dispatch
from taxonomy.ops.dispatch import Assignments
from taxonomy.registry import Init, component, formula


@struct.dataclass
class Routed:
    """A router's decision.

    loss_B: its own losses by row, a mean over tokens. probabilities_BTE: over experts, of which live_BT count.
    """

    assignments: Assignments
    loss_B: jax.Array
    probabilities_BTE: jax.Array
    live_BT: jax.Array


class Router(nn.Module, kw_only=True):
    """Sends every token of a row to some of the experts, `top_k` of them on average."""

    experts: int = formula("experts")
    top_k: int = formula("top_k")

    bias_rate = None
    labelled = False  # every dataset of a mixture has an expert
    causal = True  # what a token is assigned depends on no other one

    def check(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k={self.top_k} must be from 1 to experts={self.experts}")

    def check_top_k(self, only: int) -> None:
        """Refuses any other number of experts for a token."""
        if self.top_k != only:
            raise ValueError(f"top_k={self.top_k} must be {only}")


class Scoring(Router, kw_only=True):
    """Scores every expert for every token, in float32; subclasses choose.

    bias: of the scores. jitter: while training the router's inputs are multiplied by numbers from 1 - jitter to 1 + jitter (Fedus
    et al. 2021, arXiv:2101.03961, section 2.2). z: weighs the square of the scores' log-sum-exp, a loss (Zoph et al. 2022,
    arXiv:2202.08906, eq. 5). Losses are means over the tokens of a row.
    """

    initializer: Init
    bias: bool = False
    jitter: float = 0.0
    z: float = 0.0

    def check(self) -> None:
        super().check()
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter={self.jitter} must be from 0 to below 1")

    def scores(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Float32 (B, T, E)."""
        x_BTD = x_BTD.astype(jnp.float32)
        if self.jitter and context.train:
            key = self.make_rng("dropout")
            x_BTD = x_BTD * jax.random.uniform(key, x_BTD.shape, minval=1 - self.jitter, maxval=1 + self.jitter)
        scores_BTE = self.projected(x_BTD, "kernel")
        if self.bias:
            scores_BTE = scores_BTE + declare(self, "bias_E", (self.experts,), (None,), "bias")
        return scores_BTE

    def projected(self, x_BTD: jax.Array, name: str) -> jax.Array:
        """A number for every expert by a matrix of that name."""
        kernel = declare(self, name, (x_BTD.shape[-1], self.experts), ("embed", None), "router", self.initializer)
        return jnp.einsum("btd,de->bte", x_BTD, kernel, precision=jax.lax.Precision.HIGHEST)

    def z_loss(self, scores_BTE: jax.Array, live_BT: jax.Array) -> jax.Array:
        """(B,)."""
        if not self.z:
            return jnp.zeros(scores_BTE.shape[0], jnp.float32)
        return self.z * mean_of_row(jax.nn.logsumexp(scores_BTE, -1) ** 2, live_BT)


class TokenChoice(Scoring, kw_only=True):
    """Tokens choose experts, which may be chosen by any number of them.

    balance: weighs E sum_e f_e P_e, a loss, f the share of assignments and P the mean probability (Fedus et al. 2021,
    arXiv:2101.03961, eqs. 4 to 6).
    """

    balance: float = 0.0

    def losses(self, scores_BTE: jax.Array, probabilities_BTE: jax.Array, load_BE: jax.Array, live_BT: jax.Array) -> jax.Array:
        """Balance and z, (B,). load_BE: assignments to each expert."""
        loss_B = self.z_loss(scores_BTE, live_BT)
        if self.balance:
            share_BE = load_BE / jnp.maximum(load_BE.sum(1, keepdims=True), 1)
            loss_B += self.balance * self.experts * jnp.sum(share_BE * mean_of_row(probabilities_BTE, live_BT), 1)
        return loss_B


def real(context: Context) -> jax.Array:
    """Which tokens are not padding, (B, T)."""
    live_BT = context.positions_BT >= 0
    return live_BT if context.segments_BT is None else live_BT & (context.segments_BT > 0)


def mean_of_row(a: jax.Array, live_BT: jax.Array) -> jax.Array:
    """The mean of a (B, T, ...) over the live tokens of a row, (B, ...)."""
    live = live_BT.reshape(*live_BT.shape, *(1,) * (a.ndim - 2))
    return jnp.where(live, a, 0.0).sum(1) / jnp.maximum(live.sum(1), 1)


def totals(assignments: Assignments, values_BA: jax.Array, experts: int) -> jax.Array:
    """The sum over the live assignments of every row to each expert, float32 (B, E)."""
    add = lambda experts_A, values_A: jnp.zeros(experts).at[experts_A].add(values_A)  # noqa: E731
    return jax.vmap(add)(assignments.experts_BA, jnp.where(assignments.live_BA, values_BA, 0.0))


def load(assignments: Assignments, experts: int) -> jax.Array:
    """How many live assignments of every row go to each expert, float32 (B, E)."""
    return totals(assignments, jnp.ones_like(assignments.weights_BA), experts)


class TopK(TokenChoice, kw_only=True):
    """The top_k experts of highest affinity, weighted by it; subclasses make affinities of scores.

    renormalize: the weights of a token sum to one, before `scale`. groups: experts are in so many groups of neighbours, and a token
    goes to those of its best `group_limit` groups only, scored by their best `group_best` experts (Liu et al. 2024,
    arXiv:2405.04434, section 2.2.2; arXiv:2412.19437, section 2.1.2). bias_rate: a bias that counts for the choice only, and after
    every step goes up by this much for experts with less than the mean load and down for those with more (Wang et al. 2024,
    arXiv:2408.15664); None for none.
    """

    renormalize: bool = False
    scale: float = 1.0
    groups: int = 1
    group_limit: int = 1
    group_best: int = 1
    bias_rate: float | None = None

    def check(self) -> None:
        super().check()
        if self.groups < 1 or self.experts % self.groups:
            raise ValueError(f"experts={self.experts} is not a multiple of groups={self.groups}")
        size = self.experts // self.groups
        if not 1 <= self.group_limit <= self.groups or self.group_limit * size < self.top_k:
            raise ValueError(
                f"group_limit={self.group_limit} must be from 1 to groups={self.groups} and leave top_k={self.top_k} experts"
            )
        if not 1 <= self.group_best <= size:
            raise ValueError(f"group_best={self.group_best} must be from 1 to the {size} experts of a group")

    def affinities(self, scores_BTE: jax.Array) -> jax.Array:
        raise TypeError("a subclass defines affinities")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> Routed:
        scores_BTE = self.scores(x_BTD, context)
        affinity_BTE = self.affinities(scores_BTE)
        experts_BTC = self._chosen(affinity_BTE)
        weights_BTC = jnp.take_along_axis(affinity_BTE, experts_BTC, -1)
        if self.renormalize:
            weights_BTC = weights_BTC / (weights_BTC.sum(-1, keepdims=True) + 1e-20)
        live_BT = real(context)
        live_BTC = jnp.broadcast_to(live_BT[..., None], experts_BTC.shape)
        assignments = dispatch.by_token(experts_BTC, self.scale * weights_BTC, live_BTC)
        probabilities_BTE = affinity_BTE / (affinity_BTE.sum(-1, keepdims=True) + 1e-20)
        loss_B = self.losses(scores_BTE, probabilities_BTE, load(assignments, self.experts), live_BT)
        return Routed(assignments, loss_B, probabilities_BTE, live_BT)

    def _chosen(self, affinity_BTE: jax.Array) -> jax.Array:
        chosen_BTE = jax.lax.stop_gradient(affinity_BTE)
        if self.bias_rate is not None:
            chosen_BTE = chosen_BTE + declare(self, "selection_bias", (self.experts,), (None,), "selection")
        if self.groups > 1:
            grouped = chosen_BTE.reshape(*chosen_BTE.shape[:-1], self.groups, -1)
            best = dispatch.top_k(grouped, self.group_best)[0].sum(-1)
            kept = jax.nn.one_hot(dispatch.top_k(best, self.group_limit)[1], self.groups, dtype=bool).any(-2)
            chosen_BTE = jnp.where(kept[..., None], grouped, -jnp.inf).reshape(chosen_BTE.shape)
        return dispatch.top_k(chosen_BTE, self.top_k)[1]


@component(
    "softmax", kind="router", paper="Shazeer et al. 2017, arXiv:1701.06538, section 2.1; Fedus et al. 2021, arXiv:2101.03961, eq. 1"
)
class SoftmaxRouter(TopK):
    """The experts of highest probability; renormalised, that is a softmax over the chosen ones alone."""

    def affinities(self, scores_BTE: jax.Array) -> jax.Array:
        return jax.nn.softmax(scores_BTE, -1)


@component("sigmoid", kind="router", paper="DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2")
class SigmoidRouter(TopK):
    """The experts of highest affinity, each judged for itself by a sigmoid."""

    def affinities(self, scores_BTE: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(scores_BTE)
