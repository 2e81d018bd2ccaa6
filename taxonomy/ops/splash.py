"""Attention by JAX's own Pallas kernel for TPU, which keeps no scores in memory and skips blocks that a mask rules out.

`refused` says what it does not take; all else is computed as `ops.attention` does it elsewhere.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from taxonomy import sharding
from taxonomy.ops.attention import Keys, Scores

# Tokens of a block at most, and at least: the lanes of a TPU's vectors.
_LARGEST, SHORTEST = 512, 128
WORK = "attention_in_{}_of_{}_blocks"


def refused(q_BTHK: jax.Array, keys: Keys, scores: Scores, q_ranks_BT: jax.Array | None) -> str | None:
    """What of an attention the kernel does not take, or None."""
    time, mask = q_BTHK.shape[1], scores.mask
    reasons = {
        "keys of a cache or of other tokens": not keys.aligned,
        "a bias on scores": scores.bias is not None,
        "dropout of weights": scores.dropout is not None,
        "the softmax's denominators": scores.totals,
        "an order of tokens": q_ranks_BT is not None,
        f"a mask of the kind {type(mask).__name__.lower()}": not mask.band,
        "tokens that all see": mask.prefix and keys.prefix_BS is not None,
        f"{time} tokens, which is no multiple of {SHORTEST}": time % SHORTEST != 0,
        "tokens of one row on several devices": bool(sharding.place("time", time)),
    }
    return next((reason for reason, found in reasons.items() if found), None)


def attend(q_BTHK: jax.Array, q_positions_BT: jax.Array, q_segments_BT: jax.Array | None, keys: Keys, scores: Scores) -> jax.Array:
    """(B, T, H, K) of what is not `refused`. Positions count the tokens of a document one by one.

    Every device computes its rows and its heads. Queries are scaled before they are multiplied, so those in bfloat16 are rounded
    once more where the scale is no power of two. What padding sees is padding.
    """
    (batch, time, heads, _), groups, mask = q_BTHK.shape, keys.k_BGSK.shape[1], scores.mask
    rows = sharding.place("batch", batch)
    of_heads, of_groups = sharding.place("heads", heads), sharding.place("kv_heads", groups)
    own, repeats = heads // sharding.over(of_heads), heads // groups
    kernel = _kernel(mask.window, mask.ahead, time, own, scores.softcap, sharding.platform() != "tpu")

    def local(q_BTHK, k_BGSK, v_BGSK, segments_BT, sinks_H):
        if of_heads != of_groups:
            # Of key-value heads that stand on all devices, those that this one's queries read.
            count = 1 if repeats % own == 0 else own
            read = (jax.lax.axis_index(of_heads) * own + jnp.arange(count)) // repeats
            k_BGSK, v_BGSK = (jnp.take(a, read, axis=1) for a in (k_BGSK, v_BGSK))

        def row(q_HTK, k_GSK, v_GSK, segments_T):
            return kernel(q_HTK, k_GSK, v_GSK, library.SegmentIds(segments_T, segments_T), sinks_H)

        q_BHTK = (q_BTHK.astype(jnp.float32) * scores.scale).astype(q_BTHK.dtype).transpose(0, 2, 1, 3)
        y_BHTK = _saying_its_work(jax.vmap(row), kernel)(q_BHTK, k_BGSK, v_BGSK, segments_BT)
        return y_BHTK.transpose(0, 2, 1, 3)

    place = PartitionSpec(rows, None, of_heads)
    places = place, PartitionSpec(rows, of_groups), PartitionSpec(rows, of_groups), PartitionSpec(rows), PartitionSpec(of_heads)
    segments_BT = _seen_apart(q_positions_BT, q_segments_BT, mask.within)
    return sharding.locally(local, places, place, checked=False)(q_BTHK, keys.k_BGSK, keys.v_BGSK, segments_BT, scores.sinks_H)


def _seen_apart(positions_BT: jax.Array, segments_BT: jax.Array | None, within: int | None) -> jax.Array:
    """The number of what a token is in, int32 (B, T): its document or its piece of it; padding is in one of its own."""
    if segments_BT is None:
        segments_BT = jnp.zeros_like(positions_BT)
    if within is not None:
        pieces_BT = positions_BT // within
        begins_BT = (jnp.diff(segments_BT) != 0) | (jnp.diff(pieces_BT) != 0)
        segments_BT = jnp.pad(jnp.cumsum(begins_BT, axis=1), ((0, 0), (1, 0)))
    return jnp.where(positions_BT < 0, -1, segments_BT).astype(jnp.int32)


def _saying_its_work(function: Callable, kernel: library.SplashAttentionKernel) -> Callable:
    """A call whose name says how many of the blocks that the kernel comes to it computes, for who reads the program: `WORK`."""
    blocks = kernel.fwd_mask_info.block_mask

    def call(*arrays):
        return function(*arrays)

    call.__name__ = WORK.format((blocks > 0).sum(), blocks.size)
    return jax.jit(call)


class _Band(masks.LocalMask):
    """JAX's mask of what is near, which says of a block in which all are seen, or none, just that."""

    def __getitem__(self, places):
        rows, columns = places
        before, after = (np.inf if bound is None else bound for bound in self.window_size)
        nearest, farthest = rows.start - (columns.stop - 1), rows.stop - 1 - columns.start
        if nearest > before or farthest < -after:
            return np.zeros((1, 1), bool)
        if farthest <= before and nearest >= -after:
            return np.ones((1, 1), bool)
        return super().__getitem__(places)


@functools.lru_cache(maxsize=128)
def _kernel(window: int | None, ahead: int | None, time: int, heads: int, softcap: float | None, interpret: bool):
    """The kernel for so many tokens and heads under a mask that window and ahead say, see `ops.masks`."""
    size = next(size for size in (_LARGEST, _LARGEST // 2, SHORTEST) if time % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sides = None if window is None else window - 1, ahead
    mask = masks.FullMask((time, time)) if sides == (None, None) else _Band((time, time), sides, 0)
    make = functools.partial(
        library.make_splash_mha,
        masks.MultiHeadMask([mask] * heads),
        block_sizes=library.BlockSizes(**{f"block_{name}": size for name in names}),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    # Arrays of the mask alone: a thread knows nothing of what is being traced, nor of a mesh, whose devices need not be there.
    with ThreadPoolExecutor(1) as apart:
        return jax.tree.map(np.asarray, apart.submit(make).result())
