"""Routers that learn nothing: something known beforehand says which expert a token goes to."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.layers.routers import Routed, Router, real
from taxonomy.ops import dispatch
from taxonomy.registry import component


class Fixed(Router, kw_only=True):
    """One expert for each token, with weight one; subclasses say which."""

    def check(self) -> None:
        super().check()
        self.check_top_k(1)

    def chosen(self, context: Context) -> jax.Array:
        """The expert of each token, (B, T)."""
        raise TypeError("a subclass chooses")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> Routed:
        experts_BT, live_BT = self.chosen(context), real(context)
        weights_BT1 = jnp.ones((*experts_BT.shape, 1), jnp.float32)
        assignments = dispatch.by_token(experts_BT[..., None], weights_BT1, live_BT[..., None])
        probabilities_BTE = jax.nn.one_hot(experts_BT, self.experts)
        return Routed(assignments, jnp.zeros(experts_BT.shape[0]), probabilities_BTE, live_BT)


@component("hash", kind="router", paper="Roller et al. 2021, arXiv:2106.04426, section 3.2 (random hash)")
class HashRouter(Fixed, kw_only=True):
    """The same expert for all occurrences of a token of the vocabulary, drawn once and for all by a seed."""

    seed: int = 0

    def check(self) -> None:
        super().check()
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must be from 0 to 2**32 - 1")

    def chosen(self, context: Context) -> jax.Array:
        if context.tokens_BT is None:
            raise UserError("hash: this router reads the ids of tokens, which layers that predict in an order must not see")
        return (_mixed(_mixed(context.tokens_BT.astype(jnp.uint32)) ^ jnp.uint32(self.seed)) % self.experts).astype(jnp.int32)


@component("domain", kind="router", paper="Gururangan et al. 2021, arXiv:2108.05036, section 3")
class DomainRouter(Fixed, kw_only=True):
    """The expert of a row's domain, which is the dataset of a mixture that it comes from; of `default` where that is not known."""

    default: int = 0

    labelled = True

    def check(self) -> None:
        super().check()
        if not 0 <= self.default < self.experts:
            raise ValueError(f"default={self.default} must be from 0 to below experts={self.experts}")

    def chosen(self, context: Context) -> jax.Array:
        shape = context.positions_BT.shape
        if context.domains_B is None:
            return jnp.full(shape, self.default, jnp.int32)
        return jnp.broadcast_to(context.domains_B[:, None], shape)


def _mixed(a: jax.Array) -> jax.Array:
    """Every bit of a uint32 mixed into all others (the finaliser of MurmurHash3): the same on all machines, and for good."""
    a = (a ^ (a >> 16)) * jnp.uint32(0x85EBCA6B)
    a = (a ^ (a >> 13)) * jnp.uint32(0xC2B2AE35)
    return a ^ (a >> 16)
