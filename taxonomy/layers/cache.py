"""Keys and values kept while decoding, in the variable collection "cache".

A cache has one slot per position, or `window` slots used in turn when the mask looks back no further. Every row has its own
length: a token's slot follows from its position, and padding (position -1) is not written.

What is kept of a vector is one of KINDS, chosen when a cache is made:

exact  the vector as it was computed
int8   whole numbers from -127 to 127 and what one of them counts, its scale: the vector's largest magnitude over 127. So no
       feature is off by more than half a scale. Each token and head has a scale of its own, so that what is kept does not depend
       on what comes (per-token quantisation, Liu et al. 2024, arXiv:2402.02750, section 3; symmetric, by the largest magnitude,
       Dettmers et al. 2022, arXiv:2208.07339, section 2). A token sees its own key as later ones do.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from taxonomy.errors import UserError, nearest
from taxonomy.layers import streams
from taxonomy.layers.context import Context
from taxonomy.ops.attention import Keys

KINDS = ("exact", "int8")
POSITION_BYTES = 4  # a slot's position in the text, int32
_LARGEST, _SCALE = 127, "_scale"


def check_kind(kind: str, field: str = "cache") -> None:
    """Raises UserError when there is no such cache."""
    if kind not in KINDS:
        raise UserError(f"{field}: must be one of {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")


def cached(
    module: nn.Module, k_BTGK: jax.Array, v_BTGK: jax.Array, context: Context, window: int | None, parts: Sequence[int] = ()
) -> Keys:
    """The keys the current tokens may attend to: their own, after those already in the cache when decoding.

    `parts`: the widths of the vectors that a key is made of, where these are several; each has its own scale.
    """
    if context.cache_length is None:
        aligned, ranks_BT = context.reach is None, streams.key_ranks(context)
        k_BGTK, v_BGTK = _heads_first(k_BTGK), _heads_first(v_BTGK)
        return Keys(k_BGTK, v_BGTK, context.positions_BT, context.segments_BT, aligned, context.prefix_BT, ranks_BT)
    batch, time, groups, _ = k_BTGK.shape
    length, kind = cache_slots(context.cache_length, window, context.spare), _kind(module, "cached_key", context)
    brought = {**_kept("cached_key", k_BTGK, kind, parts), **_kept("cached_value", v_BTGK, kind)}
    stored = {
        name: module.variable("cache", name, jnp.zeros, (batch, groups, length, array.shape[-1]), array.dtype)
        for name, array in brought.items()
    }
    positions = module.variable("cache", "cached_position", jnp.full, (batch, length), -1, jnp.int32)

    new = context.positions_BT
    before, positions_before = {name: variable.value for name, variable in stored.items()}, positions.value
    # When a row brings more tokens than a rolling cache has slots, only its last ones are kept.
    kept = (new >= 0) & (new > new.max(1, keepdims=True) - length)
    rows, slots = jnp.arange(batch)[:, None], jnp.where(kept, new % length, length)
    # Head by head: XLA on CPU would turn the one write of a single row into slices, and then copy the cache to read it.
    places = (rows[:, None], jnp.arange(groups)[:, None], slots[:, None])
    for name, variable in stored.items():
        variable.value = variable.value.at[places].set(_heads_first(brought[name]), mode="drop")
    positions.value = positions.value.at[rows, slots].set(new, mode="drop")
    if time == 1 or length == context.cache_length:
        prefix_BS = None
        if context.prefix_BT is not None:
            # Only tokens of this call need it: what came before them is allowed anyway.
            prefix_BS = jnp.zeros((batch, length), bool).at[rows, slots].set(context.prefix_BT, mode="drop")
        seen, positions_BS = {name: variable.value for name, variable in stored.items()}, positions.value
    else:
        # A chunk that wraps around a rolling cache overwrites keys its first tokens still need.
        seen = {name: jnp.concatenate((before[name], _heads_first(array)), 2) for name, array in brought.items()}
        prefix_BS, positions_BS = None, jnp.concatenate((positions_before, new), 1)
    k_BGSK, v_BGSK = _restored("cached_key", seen, k_BTGK.dtype, parts), _restored("cached_value", seen, v_BTGK.dtype)
    return Keys(k_BGSK, v_BGSK, positions_BS, None, False, prefix_BS)


def remembered(
    module: nn.Module,
    brought: tuple[jax.Array, jax.Array, jax.Array] | None,
    segments_BS: jax.Array | None,
    context: Context,
    dtype: Any,
) -> Keys:
    """The keys of an encoder's memory: those brought (B, S, G, K), or while decoding those of the call that brought them."""
    if brought is None and not module.has_variable("cache", "memory_key"):
        raise ValueError("attention to an encoder needs its memory, or a cache that has it")
    if brought is not None:
        k_BGSK, v_BGSK, positions_BS = _heads_first(brought[0]), _heads_first(brought[1]), brought[2]
        if context.cache_length is None:
            return Keys(k_BGSK, v_BGSK, positions_BS, segments_BS, False)
        kind = _kind(module, "memory_key", context)
        kept = {**_kept("memory_key", k_BGSK, kind), **_kept("memory_value", v_BGSK, kind), "memory_position": positions_BS}
        for name, array in kept.items():
            module.variable("cache", name, lambda array=array: array).value = array
    stored = {name: array for name, array in module.variables["cache"].items() if name.startswith("memory_")}
    k_BGSK, v_BGSK = (_restored(name, stored, dtype) for name in ("memory_key", "memory_value"))
    return Keys(k_BGSK, v_BGSK, stored["memory_position"], None, False)


def quantised(x: jax.Array, parts: Sequence[int] = ()) -> tuple[jax.Array, jax.Array]:
    """Vectors (..., K) as int8, and float32 scales (..., 1), or one for each of the `parts` that they are made of."""
    pieces = [piece.astype(jnp.float32) for piece in _apart(x, parts)]
    scales = [jnp.abs(piece).max(-1, keepdims=True) / _LARGEST for piece in pieces]
    counts = [jnp.round(piece / jnp.where(scale > 0, scale, 1.0)) for piece, scale in zip(pieces, scales, strict=True)]
    return jnp.concatenate(counts, -1).astype(jnp.int8), jnp.concatenate(scales, -1)


def dequantised(counts: jax.Array, scales: jax.Array, parts: Sequence[int] = ()) -> jax.Array:
    """The vectors (..., K), float32."""
    return jnp.concatenate([piece * scales[..., i, None] for i, piece in enumerate(_apart(counts, parts))], -1)


def _apart(x: jax.Array, parts: Sequence[int]) -> list[jax.Array]:
    return jnp.split(x, np.cumsum(parts)[:-1], axis=-1) if parts else [x]


def _heads_first(x_BTGK: jax.Array) -> jax.Array:
    """The order in which scores and outputs read keys and values, so that no step transposes the cache."""
    return x_BTGK.transpose(0, 2, 1, 3)


def _kind(module: nn.Module, name: str, context: Context) -> str:
    """What a cache keeps: as it was made, or where there is none yet as it is asked for."""
    if not module.has_variable("cache", name):
        return context.cache
    return "int8" if module.has_variable("cache", name + _SCALE) else "exact"


def _kept(name: str, x: jax.Array, kind: str, parts: Sequence[int] = ()) -> dict[str, jax.Array]:
    """What is kept of vectors, by the names of the arrays. Of a vector without features there is no scale."""
    if kind == "exact" or not x.shape[-1]:
        return {name: x}
    return dict(zip((name, name + _SCALE), quantised(x, parts), strict=True))


def _restored(name: str, kept: dict[str, jax.Array], dtype: Any, parts: Sequence[int] = ()) -> jax.Array:
    """The vectors of `_kept`."""
    x = kept[name]
    return dequantised(x, kept[name + _SCALE], parts).astype(dtype) if name + _SCALE in kept else x


def kept_bytes(widths: Sequence[int], kind: str, dtype: Any) -> int:
    """Bytes that a cache keeps of vectors of these widths, computed in `dtype`."""
    if kind == "exact":
        return jnp.dtype(dtype).itemsize * sum(widths)
    return sum(width + jnp.dtype(jnp.float32).itemsize for width in widths)


def cache_slots(cache_length: int, window: int | None, spare: int = 0) -> int:
    """Slots per row of a cache for `cache_length` tokens under a mask with this window, when `spare` of them may be forgotten."""
    return cache_length if window is None else min(window + spare, cache_length)


def forgotten(cache: Any, last_B: jax.Array) -> Any:
    """Caches without the keys of tokens after each row's position `last_B`.

    These are as many as `Context.spare` at most, or a rolling cache has lost the keys that they overwrote.
    """

    def one(path, x):
        if path[-1].key != "cached_position":
            return x
        last = last_B.reshape(-1, *[1] * (x.ndim - 1))  # inside tracks there is an axis of these between rows and slots
        return jnp.where(x > last, -1, x)

    return jax.tree_util.tree_map_with_path(one, cache)


def rows_of(cache: Any, rows_R: jax.Array) -> Any:
    """Caches of the rows named, which may be named several times. What an encoder gave is left as it is: such rows share it."""

    def one(path, x):
        return x if path[-1].key.startswith("memory_") else x[rows_R]

    return jax.tree_util.tree_map_with_path(one, cache)
