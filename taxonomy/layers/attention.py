"""Attention to the stream itself or to an encoder, with one key-value head per query head, per group of them, or for all."""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.layers import streams
from taxonomy.layers.cache import cached, remembered
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, dropout, project
from taxonomy.layers.positions import NoPosition
from taxonomy.ops import attention as ops
from taxonomy.ops.masks import Full
from taxonomy.registry import Annotated, Component, Init, Mask, Norm, Position, component, formula

Temperature = Annotated[Component, ("temperature",)]


class Attention(nn.Module, kw_only=True):
    """Queries, keys and values from x, positions, masked softmax, maybe a norm over all heads, and the output projection.

    With source="encoder" keys and values come from the encoder's memory, and positions play no part; with source="earlier" from
    the last layer before this one that `lends` its own (Brandon et al. 2024, arXiv:2405.12981). `sinks`: a learned score for each
    head counts in the softmax and has no value (arXiv:2508.10925). With `global_projections` the tokens of the batch's prefix see
    all of their document, through queries, keys and values of their own.
    """

    position: Position
    mask: Mask
    initializer: Init
    bias: bool = False
    out_bias: bool | None = None
    qk_norm: Norm | None = None
    qk_norm_per_head: bool = False
    qk_norm_after_position: bool = False
    inner_norm: Norm | None = None
    temperature: Temperature | None = None
    softcap: float | None = None
    scale: float = formula("head_dim**-0.5")
    dropout: float = 0.0
    source: Literal["self", "encoder", "earlier"] = "self"
    lends: bool = False
    sinks: bool = False
    global_projections: bool = False

    def check(self) -> None:
        if min(self.heads, self.groups, self.head_dim) < 1:
            raise ValueError(f"heads={self.heads}, kv_heads={self.groups}, head_dim={self.head_dim} must be at least 1")
        if self.heads % self.groups:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.groups}")
        position = registry.instantiate(self.position, parent=None)
        position.check_heads(registry.instantiate(self.mask), head_dim=self.head_dim)
        if self.source == "encoder" and (self.qk_norm or self.temperature or registry.instantiate(self.mask).causal):
            raise ValueError("source='encoder' takes no qk_norm or temperature, and a mask that is not causal, such as mask=full")
        if self.source != "self" and (self.lends or self.global_projections):
            raise ValueError(f"source={self.source!r} has no keys of its own for lends=True or global_projections=True")
        placed = position.attend.__func__ is not NoPosition.attend
        if self.global_projections and (placed or not registry.instantiate(self.mask).prefix):
            raise ValueError("global_projections need a mask with a prefix, such as around, and a position at the embedding")

    @property
    def groups(self) -> int:
        """Key-value heads."""
        return self.kv_heads

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        d_model = x_BTD.shape[-1]
        q_BTHK = self._heads(x_BTD, "query", "heads", self.heads)
        if self.source == "encoder":
            return self._out(self._across(q_BTHK, context), d_model)
        k_BTGK = None
        if self.source == "self":
            seen_BTD = streams.seen(x_BTD, context)
            k_BTGK = streams.shared(self._heads(seen_BTD, "key", "kv_heads", self.groups), context)
            v_BTGK = streams.shared(self._heads(seen_BTD, "value", "kv_heads", self.groups), context)
        if not self.qk_norm_after_position:
            q_BTHK, k_BTGK = self._normed(q_BTHK, k_BTGK)
        position = registry.instantiate(self.position, name="position")
        q_BTHK, placed_BTGK, bias = position.attend(q_BTHK, q_BTHK if k_BTGK is None else k_BTGK, context, self.scale)
        if k_BTGK is not None:
            k_BTGK = placed_BTGK
        if self.qk_norm_after_position:
            q_BTHK, k_BTGK = self._normed(q_BTHK, k_BTGK)
        if self.temperature is not None:
            q_BTHK = registry.instantiate(self.temperature)(q_BTHK, context.positions_BT)

        scores = self._scores(bias, context, position.sharpness)
        keys = context.lent if k_BTGK is None else cached(self, k_BTGK, v_BTGK, context, scores.mask.window)
        if keys is None:
            raise ValueError("source='earlier' needs a layer before it whose attention lends its keys")
        if self.lends:
            context.lend(keys)
        y_BTHK = ops.attend(q_BTHK, context.positions_BT, context.segments_BT, keys, scores, context.attention, context.ranks_BT)
        if self.global_projections:
            y_BTHK = self._globally(x_BTD, y_BTHK, scores, context)
        return self._out(y_BTHK, d_model)

    def _globally(self, x_BTD: jax.Array, y_BTHK: jax.Array, scores: ops.Scores, context: Context) -> jax.Array:
        """What all tokens see, and instead of it, for those of the prefix, what global projections see in the whole document."""
        if context.ranks_BT is not None:
            raise UserError("global_projections: their tokens see all others, which an order forbids")
        if context.prefix_BT is None and not self.is_initializing():
            return y_BTHK
        q_BTHK = self._heads(x_BTD, "query", "heads", self.heads, "global_query")
        k_BTGK = self._heads(x_BTD, "key", "kv_heads", self.groups, "global_key")
        v_BTGK = self._heads(x_BTD, "value", "kv_heads", self.groups, "global_value")
        if context.prefix_BT is None:
            return y_BTHK
        keys = cached(self, k_BTGK, v_BTGK, context.replace(prefix_BT=None, cache_length=None), None)
        scores = dataclasses.replace(scores, mask=Full())
        all_BTHK = ops.attend(q_BTHK, context.positions_BT, context.segments_BT, keys, scores, context.attention)
        return jnp.where(context.prefix_BT[:, :, None, None], all_BTHK, y_BTHK)

    def _across(self, q_BTHK: jax.Array, context: Context) -> jax.Array:
        """Attention of the decoder to the encoder's memory, whose keys and values are computed once while decoding."""
        memory = context.memory
        brought = None
        if memory is not None:
            k_BSGK = self._heads(memory.x_BSD, "key", "kv_heads", self.groups)
            v_BSGK = self._heads(memory.x_BSD, "value", "kv_heads", self.groups)
            brought = (k_BSGK, v_BSGK, memory.positions_BS)
        keys = remembered(self, brought, None if memory is None else memory.segments_BS, context, q_BTHK.dtype)
        segments_BT = None if keys.segments_BS is None else context.segments_BT
        return ops.attend(q_BTHK, context.positions_BT, segments_BT, keys, self._scores(None, context), context.attention)

    def _scores(self, bias: ops.Bias | None, context: Context, sharpness: float = 1.0) -> ops.Scores:
        drop = functools.partial(dropout, self, rate=self.dropout, train=context.train)
        sinks_H = declare(self, "sinks", (self.heads,), ("heads",), "bias") if self.sinks else None
        mask, scale = registry.instantiate(self.mask), self.scale * sharpness
        return ops.Scores(mask, scale, bias, self.softcap, drop if self.dropout else None, sinks_H)

    def _out(self, y_BTHK: jax.Array, d_model: int) -> jax.Array:
        if self.inner_norm is not None:
            y_BTN = y_BTHK.reshape(*y_BTHK.shape[:2], -1)
            y_BTHK = registry.instantiate(self.inner_norm, name="inner_norm")(y_BTN, ("heads",)).reshape(y_BTHK.shape)
        shape, axes = (self.heads, self.head_dim, d_model), ("heads", "head_dim", "embed")
        kernel = declare(self, "out", shape, axes, "residual", self.initializer, inputs=2)
        has_bias = self.bias if self.out_bias is None else self.out_bias
        out_bias = declare(self, "bias_D", (d_model,), ("embed",), "bias") if has_bias else None
        return project(y_BTHK, kernel, out_bias, inputs=2)

    def _normed(self, q_BTHK: jax.Array, k_BTGK: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """Queries, and keys where they are this layer's own."""

        def normed(x_BTHK, name: str, axis: str):
            axes = (axis, "head_dim") if self.qk_norm_per_head else ("head_dim",)
            return registry.instantiate(self.qk_norm, name=name)(x_BTHK, axes)

        if self.qk_norm is None:
            return q_BTHK, k_BTGK
        q_BTHK = normed(q_BTHK, "query_norm", "heads")
        return q_BTHK, None if k_BTGK is None else normed(k_BTGK, "key_norm", "kv_heads")

    def _heads(self, x_BTD: jax.Array, role: str, axis: str, heads: int, name: str = "") -> jax.Array:
        shape, name = (x_BTD.shape[-1], heads, self.head_dim), name or role
        kernel = declare(self, name, shape, ("embed", axis, "head_dim"), role, self.initializer)
        bias = declare(self, f"{name}_bias", shape[1:], (axis, "head_dim"), "bias") if self.bias else None
        return project(x_BTD, kernel, bias)

    def attention_flops(self, context: int) -> float:
        """Forward FLOPs per token of the scores and the weighted sum, in a document of `context` tokens."""
        mask = registry.instantiate(self.mask)
        position = registry.instantiate(self.position, parent=None).distance_flops(mask, context, self.heads, self.head_dim)
        return 4 * self.heads * self.head_dim * mask.mean_span(context) + position

    def idle_elements(self, d_model: int) -> int:
        """Elements of matrices that are not used where no token is global."""
        return d_model * self.head_dim * (self.heads + 2 * self.groups) if self.global_projections else 0

    def cache_widths(self) -> tuple[int, ...]:
        """Of the vectors kept per token while decoding."""
        return () if self.source == "earlier" else 2 * self.groups * (self.head_dim,)


@component("mha", kind="attention", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2")
class MultiHeadAttention(Attention):
    """Every query head has its own keys and values."""

    heads: int
    head_dim: int = formula("d_model / heads")

    @property
    def groups(self) -> int:
        return self.heads


@component("mqa", kind="attention", paper="Shazeer 2019, arXiv:1911.02150, section 3")
class MultiQueryAttention(Attention):
    """All query heads share one head of keys and values."""

    heads: int
    head_dim: int = formula("d_model / heads")

    @property
    def groups(self) -> int:
        return 1


@component("gqa", kind="attention", paper="Ainslie et al. 2023, arXiv:2305.13245")
class GroupedQueryAttention(Attention):
    """Groups of query heads share one head of keys and values."""

    heads: int
    kv_heads: int
    head_dim: int = formula("d_model / heads")
