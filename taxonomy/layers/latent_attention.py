"""Attention whose keys and values are compressed to one small latent per token, which is all that is cached."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.layers import streams
from taxonomy.layers.cache import cached
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, dropout, project
from taxonomy.layers.positions import NoPosition
from taxonomy.ops import attention as ops
from taxonomy.ops.attention import Bias, Keys
from taxonomy.registry import Init, Mask, Norm, Position, component, formula


@component("latent", kind="attention", paper="DeepSeek-AI 2024, arXiv:2405.04434, section 2.1 and appendix C")
class LatentAttention(nn.Module):
    """Keys and values of all heads are projections of a normed latent of `kv_rank` features.

    A head compares `head_dim` features made of the latent, which know no position, and `rotary_dim` features whose key is made of
    the token itself and shared by all heads; any position acts on these alone. Values have `value_dim` features. Queries come from
    a normed latent of their own, or directly from the token where there is no `query_rank`.

    While decoding, the latent and the shared key are kept, and attention has two equal forms: keys and values of every head are
    made of the latents (`_expanded`), or queries are taken to the space of the latents and outputs back from it (`_absorbed`).
    """

    heads: int
    kv_rank: int
    head_dim: int
    rotary_dim: int
    position: Position
    mask: Mask
    initializer: Init
    norm: Norm
    value_dim: int = formula("head_dim")
    query_rank: int | None = None
    scale: float = formula("(head_dim + rotary_dim)**-0.5")
    dropout: float = 0.0

    def check(self) -> None:
        sizes = ("heads", "kv_rank", "head_dim", "rotary_dim", "value_dim", "query_rank")
        for name in sizes:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        self._position().check_heads(registry.instantiate(self.mask), rotary_dim=self.rotary_dim)

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        seen_BTD = streams.seen(x_BTD, context)
        latent_BTL = self._latent(seen_BTD, "latent", "key", self.kv_rank)
        k_rotary_BTK = project(seen_BTD, self._kernel("rotary_key", (x_BTD.shape[-1], self.rotary_dim), ("embed", None), "key"))
        latent_BTL, k_rotary_BTK = (streams.shared(a, context) for a in (latent_BTL, k_rotary_BTK))
        q_BTHK, q_rotary_BTHK = jnp.split(self._queries(x_BTD), [self.head_dim], -1)
        position = registry.instantiate(self.position, name="position")
        q_rotary_BTHK, k_rotary_BTGK, bias = position.attend(q_rotary_BTHK, k_rotary_BTK[:, :, None], context, self.scale)

        drop = functools.partial(dropout, self, rate=self.dropout, train=context.train)
        scores = ops.Scores(
            mask=registry.instantiate(self.mask),
            scale=self.scale * position.sharpness,
            bias=bias and self._of_rotary(bias),
            dropout=drop if self.dropout else None,
        )
        # One key-value head of latents and the keys that all heads share. Values have nothing of their own to be kept.
        kept_BTGK = jnp.concatenate([latent_BTL[:, :, None], k_rotary_BTGK], -1)
        keys = cached(self, kept_BTGK, kept_BTGK[..., :0], context, scores.mask.window, self.cache_widths())
        w_k_LHK = self._of_latent("key", self.head_dim)
        w_v_LHK = self._of_latent("value", self.value_dim)
        absorbed = context.cache_length is not None and self._absorbs(x_BTD.shape[1])
        take = self._absorbed if absorbed else self._expanded
        y_BTHK = take(q_BTHK, q_rotary_BTHK, keys, w_k_LHK, w_v_LHK, scores, context)
        shape, axes = (self.heads, self.value_dim, x_BTD.shape[-1]), ("heads", "head_dim", "embed")
        return project(y_BTHK, declare(self, "out", shape, axes, "residual", self.initializer, inputs=2), inputs=2)

    def _expanded(self, q_BTHK, q_rotary_BTHK, keys: Keys, w_k_LHK, w_v_LHK, scores: ops.Scores, context: Context) -> jax.Array:
        """With keys and values of every head."""
        latent_BSL, k_rotary_BSK = jnp.split(keys.k_BGSK[:, 0], [self.kv_rank], -1)
        k_BSHK, v_BSHK = project(latent_BSL, w_k_LHK), project(latent_BSL, w_v_LHK)
        k_rotary_BSHK = jnp.broadcast_to(k_rotary_BSK[:, :, None], (*k_BSHK.shape[:3], self.rotary_dim))
        k_BSHK = jnp.concatenate([k_BSHK, k_rotary_BSHK], -1)
        keys = dataclasses.replace(keys, k_BGSK=k_BSHK.transpose(0, 2, 1, 3), v_BGSK=v_BSHK.transpose(0, 2, 1, 3))
        return self._attend(jnp.concatenate([q_BTHK, q_rotary_BTHK], -1), keys, scores, context)

    def _absorbed(self, q_BTHK, q_rotary_BTHK, keys: Keys, w_k_LHK, w_v_LHK, scores: ops.Scores, context: Context) -> jax.Array:
        """With the latents as the keys and values of one head: q . (W c) = (q W) . c, and the same for values."""
        q_BTHL = jnp.einsum("bthk,lhk->bthl", q_BTHK, w_k_LHK.astype(q_BTHK.dtype))
        keys = dataclasses.replace(keys, v_BGSK=keys.k_BGSK[..., : self.kv_rank])
        y_BTHL = self._attend(jnp.concatenate([q_BTHL, q_rotary_BTHK], -1), keys, scores, context)
        return jnp.einsum("bthl,lhk->bthk", y_BTHL, w_v_LHK.astype(y_BTHL.dtype))

    def _absorbs(self, time: int) -> bool:
        """Whether so many queries a row save FLOPs when absorbed: wider products for each, but none for the keys themselves."""
        expanded = self.head_dim + self.value_dim
        return time * (2 * self.kv_rank - expanded) <= self.kv_rank * expanded

    def _attend(self, q_BTHK: jax.Array, keys: Keys, scores: ops.Scores, context: Context) -> jax.Array:
        coordinates = (context.positions_BT, context.segments_BT)
        return ops.attend(q_BTHK, *coordinates, keys, scores, context.attention, context.ranks_BT)

    def _of_rotary(self, bias: Bias) -> Bias:
        """A position's bias, which reads only the features of queries that the position acts on: the last ones in both forms."""
        return bias.replace(add=lambda q_BTHK, *others: bias.add(q_BTHK[..., -self.rotary_dim :], *others))

    def _queries(self, x_BTD: jax.Array) -> jax.Array:
        """(B, T, H, head_dim + rotary_dim)."""
        axis = "embed"
        if self.query_rank is not None:
            x_BTD, axis = self._latent(x_BTD, "query_latent", "query", self.query_rank), "latent"
        shape = (x_BTD.shape[-1], self.heads, self.head_dim + self.rotary_dim)
        return project(x_BTD, self._kernel("query", shape, (axis, "heads", "head_dim"), "query"))

    def _latent(self, x_BTD: jax.Array, name: str, role: str, rank: int) -> jax.Array:
        x_BTL = project(x_BTD, self._kernel(name, (x_BTD.shape[-1], rank), ("embed", None), role))
        return registry.instantiate(self.norm, name=f"{name}_norm")(x_BTL, ("latent",))

    def _of_latent(self, role: str, width: int) -> jax.Array:
        return self._kernel(role, (self.kv_rank, self.heads, width), ("latent", "heads", "head_dim"), role)

    def _kernel(self, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], role: str) -> jax.Array:
        return declare(self, name, shape, axes, role, self.initializer)

    def _position(self) -> NoPosition:
        return registry.instantiate(self.position, parent=None)

    def attention_flops(self, context: int) -> float:
        """Forward FLOPs per token of the scores and the weighted sum, in a document of `context` tokens."""
        mask = registry.instantiate(self.mask)
        position = self._position().distance_flops(mask, context, self.heads, self.rotary_dim)
        return 2 * self.heads * (self.head_dim + self.rotary_dim + self.value_dim) * mask.mean_span(context) + position

    def cache_widths(self) -> tuple[int, ...]:
        """Of the vectors kept per token while decoding."""
        return self.kv_rank, self.rotary_dim
