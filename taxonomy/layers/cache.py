"""Keys and values kept while decoding, in the variable collection "cache".

A cache has one slot per position, or `window` slots used in turn when the mask looks back no further. Every row has its own
length: a token's slot follows from its position, and padding (position -1) is not written.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.layers import streams
from taxonomy.layers.context import Context
from taxonomy.ops.attention import Keys


def cached(module: nn.Module, k_BTGK: jax.Array, v_BTGK: jax.Array, context: Context, window: int | None) -> Keys:
    """The keys the current tokens may attend to: their own, after those already in the cache when decoding."""
    # Heads first, the order in which scores and outputs read them, so that no step transposes the cache.
    k_BGTK, v_BGTK = k_BTGK.transpose(0, 2, 1, 3), v_BTGK.transpose(0, 2, 1, 3)
    if context.cache_length is None:
        aligned, ranks_BT = context.reach is None, streams.key_ranks(context)
        return Keys(k_BGTK, v_BGTK, context.positions_BT, context.segments_BT, aligned, context.prefix_BT, ranks_BT)
    batch, groups, time, head_dim = k_BGTK.shape
    length = cache_slots(context.cache_length, window, context.spare)
    k = module.variable("cache", "cached_key", jnp.zeros, (batch, groups, length, head_dim), k_BTGK.dtype)
    v = module.variable("cache", "cached_value", jnp.zeros, (batch, groups, length, v_BTGK.shape[-1]), v_BTGK.dtype)
    positions = module.variable("cache", "cached_position", jnp.full, (batch, length), -1, jnp.int32)

    new = context.positions_BT
    before = (k.value, v.value, positions.value)
    # When a row brings more tokens than a rolling cache has slots, only its last ones are kept.
    kept = (new >= 0) & (new > new.max(1, keepdims=True) - length)
    rows, slots = jnp.arange(batch)[:, None], jnp.where(kept, new % length, length)
    k.value = k.value.at[rows, :, slots].set(k_BTGK, mode="drop")
    v.value = v.value.at[rows, :, slots].set(v_BTGK, mode="drop")
    positions.value = positions.value.at[rows, slots].set(new, mode="drop")
    if time == 1 or length == context.cache_length:
        prefix_BS = None
        if context.prefix_BT is not None:
            # Only tokens of this call need it: what came before them is allowed anyway.
            prefix_BS = jnp.zeros((batch, length), bool).at[rows, slots].set(context.prefix_BT, mode="drop")
        return Keys(k.value, v.value, positions.value, None, False, prefix_BS)
    # A chunk that wraps around a rolling cache overwrites keys its first tokens still need.
    brought = (k_BGTK, v_BGTK, new)
    together = (jnp.concatenate(pair, axis) for pair, axis in zip(zip(before, brought, strict=True), (2, 2, 1), strict=True))
    return Keys(*together, None, False)


def remembered(
    module: nn.Module, brought: tuple[jax.Array, jax.Array, jax.Array] | None, segments_BS: jax.Array | None, context: Context
) -> Keys:
    """The keys of an encoder's memory: those brought (B, S, G, K), or while decoding those of the call that brought them."""
    if brought is None and not module.has_variable("cache", "memory_key"):
        raise ValueError("attention to an encoder needs its memory, or a cache that has it")
    if brought is not None:
        k_BSGK, v_BSGK, positions_BS = brought
        brought = (k_BSGK.transpose(0, 2, 1, 3), v_BSGK.transpose(0, 2, 1, 3), positions_BS)
    if context.cache_length is None:
        return Keys(*brought, segments_BS, False)
    stored = []
    for i, name in enumerate(("memory_key", "memory_value", "memory_position")):
        variable = module.variable("cache", name, lambda i=i: brought[i])
        if brought is not None:
            variable.value = brought[i]
        stored.append(variable.value)
    return Keys(*stored, None, False)


def cache_slots(cache_length: int, window: int | None, spare: int = 0) -> int:
    """Slots per row of a cache for `cache_length` tokens under a mask with this window, when `spare` of them may be forgotten."""
    return cache_length if window is None else min(window + spare, cache_length)


def forgotten(cache: Any, last_B: jax.Array) -> Any:
    """Caches without the keys of tokens after each row's position `last_B`.

    These are as many as `Context.spare` at most, or a rolling cache has lost the keys that they overwrote.
    """

    def one(path, x):
        return jnp.where(x > last_B[:, None], -1, x) if path[-1].key == "cached_position" else x

    return jax.tree_util.tree_map_with_path(one, cache)


def rows_of(cache: Any, rows_R: jax.Array) -> Any:
    """Caches of the rows named, which may be named several times. What an encoder gave is left as it is: such rows share it."""

    def one(path, x):
        return x if path[-1].key.startswith("memory_") else x[rows_R]

    return jax.tree_util.tree_map_with_path(one, cache)
