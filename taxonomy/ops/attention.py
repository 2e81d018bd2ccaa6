"""Scaled dot-product attention: one plain reference, one implementation that skips what a mask rules out, and a kernel for TPU.

Shapes: queries (B, T, H, K); keys and values (B, G, S, K) with H a multiple of G.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy import sharding
from taxonomy.errors import UserError, nearest
from taxonomy.ops.masks import AttentionMask

MASKED = -1e30  # finite, so that a row without any key (padding) stays finite
# Of so many queries no weights are kept for the backward pass: chunk by chunk they are computed again.
LONG = 1024


@struct.dataclass
class Bias:
    """What positions add to scores.

    add: (queries (B, T, H, K), their positions (B, T), key positions (B, S), offset, *arrays) -> broadcastable to (B, H, T, S).
    `offset`: row t and column s are t + offset - s tokens apart whenever they are in one document; None when no such number exists.
    axes: for each array what its dimensions are: "heads", "batch", or None for anything else. All that `add` computes with is in
    the arrays, so that a device can do it for heads of its own.
    """

    add: Callable[..., jax.Array] = struct.field(pytree_node=False)
    arrays: tuple[jax.Array, ...] = ()
    axes: tuple[tuple[str | None, ...], ...] = struct.field(pytree_node=False, default=())

    def __call__(self, q_BTHK: jax.Array, q_positions_BT: jax.Array, k_positions_BS: jax.Array, offset: int | None) -> jax.Array:
        return self.add(q_BTHK, q_positions_BT, k_positions_BS, offset, *self.arrays)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["bias", "sinks_H"],
    meta_fields=["mask", "scale", "softcap", "dropout", "totals"],
)
@dataclasses.dataclass(frozen=True)
class Scores:
    """Everything that turns q.k into weights, besides the arrays.

    softcap: scores become cap * tanh(score / cap). sinks_H: for each head, the score of a key
    that has no value: it only takes weight from the others. totals: outputs are float32 and have a last feature more, the
    logarithm of the softmax's denominator.
    """

    mask: AttentionMask
    scale: float
    bias: Bias | None = None
    softcap: float | None = None
    dropout: Callable[[jax.Array], jax.Array] | None = None
    sinks_H: jax.Array | None = None
    totals: bool = False


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["k_BGSK", "v_BGSK", "positions_BS", "segments_BS", "prefix_BS", "ranks_BS"],
    meta_fields=["aligned"],
)
@dataclasses.dataclass(frozen=True)
class Keys:
    """Keys and values with their coordinates. `aligned`: key i and query i are the same token, in document order.

    prefix_BS: keys that every query of their document sees under a mask with a prefix, or None when there are none.
    ranks_BS: where queries have ranks, a query sees only keys of no higher rank than its own.
    """

    k_BGSK: jax.Array
    v_BGSK: jax.Array
    positions_BS: jax.Array
    segments_BS: jax.Array | None
    aligned: bool
    prefix_BS: jax.Array | None = None
    ranks_BS: jax.Array | None = None

    def between(self, first: int, stop: int) -> "Keys":
        """The keys from `first` to before `stop`."""
        of_tokens = (self.positions_BS, self.segments_BS, self.prefix_BS, self.ranks_BS)
        positions_BS, segments_BS, prefix_BS, ranks_BS = (None if a is None else a[:, first:stop] for a in of_tokens)
        k_BGSK, v_BGSK = self.k_BGSK[:, :, first:stop], self.v_BGSK[:, :, first:stop]
        return Keys(k_BGSK, v_BGSK, positions_BS, segments_BS, self.aligned, prefix_BS, ranks_BS)


def attend(
    q_BTHK: jax.Array,
    q_positions_BT: jax.Array,
    q_segments_BT: jax.Array | None,
    keys: Keys,
    scores: Scores,
    implementation: str = "auto",
    q_ranks_BT: jax.Array | None = None,
) -> jax.Array:
    """Attention in the named implementation ("auto" chooses); returns (B, T, H, K).

    With ranks (see `Keys`) a query that sees no key gets zeros. Where devices have parts of the sequence, see `across`; "chunked"
    and "reference" are left to the partitioner there. Raises UserError on an unknown name, and where `across` cannot do as told.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UserError(f"attention: unknown implementation '{implementation}'{nearest(implementation, IMPLEMENTATIONS)}")
    if implementation not in ("chunked", "reference", "splash") and sharding.place("time", q_BTHK.shape[1]):
        from taxonomy.ops import across

        return across.attend(q_BTHK, q_positions_BT, q_segments_BT, keys, scores, implementation, q_ranks_BT)
    return IMPLEMENTATIONS[implementation](q_BTHK, q_positions_BT, q_segments_BT, keys, scores, q_ranks_BT)


def reference(q_BTHK, q_positions_BT, q_segments_BT, keys: Keys, scores: Scores, q_ranks_BT=None) -> jax.Array:
    """All T x S scores at once."""
    offset = 0 if keys.aligned else None
    return heads_last(_attend_block(q_BTHK, q_positions_BT, q_segments_BT, keys, scores, offset, q_ranks_BT))


def chunked(q_BTHK, q_positions_BT, q_segments_BT, keys: Keys, scores: Scores, q_ranks_BT=None) -> jax.Array:
    """Queries in chunks, each against only the keys that its mask can reach. Equal to `reference`.

    What the backward pass needs beside queries, keys and values is, from `LONG` queries on, the scores of one chunk at a time.
    """
    time, mask = q_BTHK.shape[1], scores.mask
    size = max(64, -(-time // 16))
    if mask.by_head and keys.aligned and scores.bias is None and q_ranks_BT is None and time > size:
        from taxonomy.ops import dilated

        return dilated.attend(q_BTHK, q_positions_BT, q_segments_BT, keys, scores)
    # Tokens that all see may stand anywhere.
    before, after = (None, None) if mask.prefix and keys.prefix_BS is not None else (mask.window, mask.ahead)
    if not keys.aligned or time <= size or (before is after is None and time < LONG):
        return reference(q_BTHK, q_positions_BT, q_segments_BT, keys, scores, q_ranks_BT)
    if None not in (before, after) and size > max(64, before + after) and q_ranks_BT is None:
        return _banded(q_BTHK, q_positions_BT, q_segments_BT, keys, scores)
    outputs, block = [], _attend_block
    # The random numbers of dropout are a module's, which no transformation may come between.
    if time >= LONG and scores.dropout is None:
        block = jax.checkpoint(_attend_block, static_argnums=5)
    for start in range(0, time, size):
        stop = min(start + size, time)
        first = 0 if before is None else max(0, (start - before + 1) // 64 * 64)
        last = time if after is None else min(time, stop + after)
        rows = slice(start, stop)
        segments_BT, ranks_BT = (None if a is None else a[:, rows] for a in (q_segments_BT, q_ranks_BT))
        reached, offset = keys.between(first, last), start - first
        outputs.append(block(q_BTHK[:, rows], q_positions_BT[:, rows], segments_BT, reached, scores, offset, ranks_BT))
    return heads_last(jnp.concatenate(outputs, 3))


def _banded(q_BTHK, q_positions_BT, q_segments_BT, keys: Keys, scores: Scores) -> jax.Array:
    """Chunks as large as a window side by side in the batch, each with the keys from a window before it to a window after it.

    Unlike chunks one after another their number may be large, so that the work grows with the length and not with its square.
    """
    batch, time = q_positions_BT.shape
    before, after = scores.mask.window - 1, scores.mask.ahead
    size = max(64, before + after)
    chunks = -(-time // size)
    starts = jnp.arange(chunks) * size

    def rows(a, axis: int, first: int, length: int, fill):
        """Of each chunk the `length` places from `first` on, counted from its start: chunks join the batch."""
        if a is None:
            return None
        pads = [(0, 0)] * a.ndim
        pads[axis] = (-first, chunks * size - time + first + length - size)
        places = (starts[:, None] + jnp.arange(length)).reshape(-1)
        taken = jnp.take(jnp.pad(a, pads, constant_values=fill), places, axis)
        taken = taken.reshape(*a.shape[:axis], chunks, length, *a.shape[axis + 1 :])
        return jnp.moveaxis(taken, axis, 1).reshape(batch * chunks, *a.shape[1:axis], length, *a.shape[axis + 1 :])

    seen = size + before + after
    reached = Keys(
        *(rows(a, 2, -before, seen, 0) for a in (keys.k_BGSK, keys.v_BGSK)),
        rows(keys.positions_BS, 1, -before, seen, -1),
        rows(keys.segments_BS, 1, -before, seen, -1),
        True,
    )
    own = (rows(a, 1, 0, size, 0) for a in (q_BTHK, q_positions_BT, q_segments_BT))
    y_BTHK = heads_last(_attend_block(*own, reached, scores, before))
    return y_BTHK.reshape(batch, chunks * size, *y_BTHK.shape[2:])[:, :time]


def kernel(q_BTHK, q_positions_BT, q_segments_BT, keys: Keys, scores: Scores, q_ranks_BT=None) -> jax.Array:
    """By the kernel of `ops.splash`. Raises UserError for what it does not take, but for texts too short to need it."""
    from taxonomy.ops import splash

    reason = splash.refused(q_BTHK, keys, scores, q_ranks_BT)
    if reason is None:
        return splash.attend(q_BTHK, q_positions_BT, q_segments_BT, keys, scores)
    if q_BTHK.shape[1] >= splash.SHORTEST:
        raise UserError(f"attention: splash does not take {reason}; auto computes that in chunks")
    return chunked(q_BTHK, q_positions_BT, q_segments_BT, keys, scores, q_ranks_BT)


def auto(q_BTHK, q_positions_BT, q_segments_BT, keys: Keys, scores: Scores, q_ranks_BT=None) -> jax.Array:
    """What is fastest where it runs: on TPU the kernel for all that it takes, else chunks."""
    if sharding.platform() == "tpu":
        from taxonomy.ops import splash

        if splash.refused(q_BTHK, keys, scores, q_ranks_BT) is None:
            return splash.attend(q_BTHK, q_positions_BT, q_segments_BT, keys, scores)
    return chunked(q_BTHK, q_positions_BT, q_segments_BT, keys, scores, q_ranks_BT)


IMPLEMENTATIONS = {"auto": auto, "chunked": chunked, "reference": reference, "splash": kernel}
# How devices that have parts of the sequence work together, see `across`; one alone has nobody to work with.
IMPLEMENTATIONS |= dict.fromkeys(("ring", "all_to_all", "gathered"), auto)


def heads_last(y_BGRTK: jax.Array) -> jax.Array:
    batch, groups, repeats, time, head_dim = y_BGRTK.shape
    return y_BGRTK.transpose(0, 3, 1, 2, 4).reshape(batch, time, groups * repeats, head_dim)


def _by_head(products: str, one: jax.Array, other: jax.Array, **how) -> jax.Array:
    """An einsum over rows and heads. Of a single row without its axis, for which XLA on CPU would transpose a copy of `other`."""
    if one.shape[0] > 1:
        return jnp.einsum(products, one, other, **how)
    return jnp.einsum(products.replace("b", ""), one[0], other[0], **how)[None]


def by_group(x_BTHK: jax.Array, groups: int) -> jax.Array:
    """(B, G, R, T, K)."""
    batch, time, heads, head_dim = x_BTHK.shape
    return x_BTHK.reshape(batch, time, groups, heads // groups, head_dim).transpose(0, 2, 3, 1, 4)


def logits(q_BTHK, q_positions, q_segments, keys: Keys, scores: Scores, offset, q_ranks=None) -> tuple[jax.Array, jax.Array]:
    """Float32 scores (B, G, R, T, S), and which keys a query may see (B, T, S); those of the others are very low.

    `offset` is the place of the first query among the keys, None when they are not aligned.
    """
    batch, time, heads, _ = q_BTHK.shape
    k_positions, groups = keys.positions_BS, keys.k_BGSK.shape[1]
    repeats = heads // groups
    q_BGRTK = by_group(q_BTHK, groups)
    # Scaled in float32: queries in bfloat16 would lose bits to any scale that is no power of two.
    logits_BGRTS = _by_head("bgrtk,bgsk->bgrts", q_BGRTK, keys.k_BGSK, preferred_element_type=jnp.float32) * scores.scale
    if scores.softcap is not None:
        logits_BGRTS = scores.softcap * jnp.tanh(logits_BGRTS / scores.softcap)
    if scores.bias is not None:
        bias = scores.bias(q_BTHK, q_positions, k_positions, offset)
        logits_BGRTS = logits_BGRTS + bias.reshape(bias.shape[0], groups, repeats, *bias.shape[2:])
    if scores.mask.by_head:
        times = scores.mask.times(q_positions, k_positions).reshape(batch, groups, repeats, time, -1)
        logits_BGRTS = jnp.where(times > 0, logits_BGRTS + jnp.log(jnp.maximum(times, 1).astype(jnp.float32)), MASKED)
    allowed_BTS = scores.mask.allowed(q_positions[:, :, None], k_positions[:, None, :])
    if scores.mask.prefix and keys.prefix_BS is not None:
        allowed_BTS |= keys.prefix_BS[:, None, :]
    allowed_BTS &= (k_positions >= 0)[:, None, :]
    if q_segments is not None:
        allowed_BTS &= q_segments[:, :, None] == keys.segments_BS[:, None, :]
    if q_ranks is not None:
        allowed_BTS &= keys.ranks_BS[:, None, :] <= q_ranks[:, :, None]
    return jnp.where(allowed_BTS[:, None, None], logits_BGRTS, MASKED), allowed_BTS


def _attend_block(q_BTHK, q_positions, q_segments, keys: Keys, scores: Scores, offset: int | None, q_ranks=None) -> jax.Array:
    """(B, G, R, T, K)."""
    groups, repeats = keys.k_BGSK.shape[1], q_BTHK.shape[2] // keys.k_BGSK.shape[1]
    logits_BGRTS, allowed_BTS = logits(q_BTHK, q_positions, q_segments, keys, scores, offset, q_ranks)
    weights = jax.nn.softmax(logits_BGRTS, axis=-1)
    if scores.sinks_H is not None or scores.totals:
        log_z = jax.nn.logsumexp(logits_BGRTS, axis=-1, keepdims=True)
    if scores.sinks_H is not None:
        sinks_GR11 = scores.sinks_H.reshape(groups, repeats, 1, 1)
        weights = weights * jax.nn.sigmoid(log_z - sinks_GR11)  # z / (z + e^sink)
        log_z = jnp.logaddexp(log_z, sinks_GR11) if scores.totals else None
    if q_ranks is not None:
        # What is predicted first may have no key at all, and equal weights for all of them would tell what it is.
        weights = jnp.where(allowed_BTS[:, None, None], weights, 0.0)
    if scores.dropout is not None:
        weights = scores.dropout(weights)
    y_BGRTK = _by_head("bgrts,bgsk->bgrtk", weights.astype(keys.v_BGSK.dtype), keys.v_BGSK)
    if not scores.totals:
        return y_BGRTK
    return jnp.concatenate([y_BGRTK.astype(jnp.float32), log_z], -1)
