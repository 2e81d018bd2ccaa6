"""Attention around a ring of devices, each of which has a part of the sequence (Liu et al. 2023, arXiv:2310.01889).

Keys and values travel from device to device, and each adds what they give to its own queries, with the softmax's sums in float32.
What is kept for the backward pass is a device's own part alone: keys travel again there, weights are computed again from the
logarithm of the softmax's denominator, and gradients of keys travel with them until they are at home.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy.ops import attention
from taxonomy.ops.attention import MASKED, Keys, Scores
from taxonomy.ops.masks import AttentionMask


@struct.dataclass
class Queries:
    """Queries with their coordinates; see `attention.attend`."""

    q_BTHK: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array | None
    ranks_BT: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Ring:
    """The way that keys take over the devices `axes`, of which there are `count`.

    A device sees the keys of `stops` devices: first those of the `ahead`-th after it, then of the one before that, and so on.
    """

    axes: tuple[str, ...]
    count: int
    ahead: int
    stops: int

    @classmethod
    def of(cls, axes: tuple[str, ...], count: int, keys: Keys, mask: AttentionMask) -> "Ring":
        """As far as the mask lets queries see; `keys` are those of all devices."""
        # Tokens that all see may stand anywhere, and so may keys that are not aligned.
        anywhere = not keys.aligned or (mask.prefix and keys.prefix_BS is not None)
        size, most = keys.positions_BS.shape[1] // count, count - 1
        behind = most if anywhere or mask.window is None else -(-(mask.window - 1) // size)
        ahead = most if anywhere or mask.ahead is None else -(-mask.ahead // size)
        if behind + ahead >= most:
            return cls(axes, count, 0, count)
        return cls(axes, count, ahead, behind + ahead + 1)

    @property
    def sends(self) -> int:
        """How often a device sends keys."""
        return self.stops - 1 + (self.ahead > 0)

    def shifted(self, tree: Any, by: int) -> Any:
        """What the device `by` places before has."""
        if by % self.count == 0:
            return tree
        return jax.lax.ppermute(tree, self.axes, [(i, (i + by) % self.count) for i in range(self.count)])

    def offset(self, stop: jax.Array | int, size: int) -> jax.Array:
        """The place of a device's first query among the keys that it has at this stop, all of which have `size` tokens."""
        here = jax.lax.axis_index(self.axes)
        return (here - (here + self.ahead - stop) % self.count) * size


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def around(ring: Ring, queries: Queries, keys: Keys, scores: Scores) -> jax.Array:
    """What a device's queries get of all keys that come around, float32 (B, T, H, K); zeros where they see none."""
    return _forward(ring, queries, keys, scores)[0]


def _forward(ring: Ring, queries: Queries, keys: Keys, scores: Scores):
    q_BTHK, groups = queries.q_BTHK, keys.k_BGSK.shape[1]

    def see(sums, keys: Keys, stop):
        """The highest score so far, the sum of weights relative to it, and the weighted sum of values."""
        highest, total, y = sums
        logits, allowed = _logits(ring, stop, queries, keys, scores)
        new = jnp.maximum(highest, logits.max(-1, keepdims=True))
        weights = jnp.where(allowed, jnp.exp(logits - new), 0.0)
        shrunk = jnp.exp(highest - new)
        values = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(keys.v_BGSK.dtype), keys.v_BGSK, preferred_element_type=jnp.float32)
        return new, total * shrunk + weights.sum(-1, keepdims=True), y * shrunk + values

    def turn(carry, stop):
        keys, sums = carry
        return (ring.shifted(keys, 1), see(sums, keys, stop)), None

    rows = (q_BTHK.shape[0], groups, q_BTHK.shape[2] // groups, q_BTHK.shape[1])
    # Like the queries: each device's own, as these are.
    full = lambda width, value: jnp.full_like(q_BTHK, value, jnp.float32, (*rows, width))  # noqa: E731
    start = full(1, MASKED), full(1, 0.0), full(keys.v_BGSK.shape[-1], 0.0)
    (last, sums), _ = jax.lax.scan(turn, (ring.shifted(keys, -ring.ahead), start), jnp.arange(ring.stops - 1))
    highest, total, y = see(sums, last, ring.stops - 1)
    log_z = highest + jnp.log(jnp.where(total > 0, total, 1.0))
    if scores.sinks_H is not None:
        log_z = jnp.logaddexp(log_z, scores.sinks_H.reshape(groups, -1, 1, 1))
    y = y * jnp.exp(highest - log_z)
    return attention.heads_last(y), (queries, keys, scores, y, log_z)


def _backward(ring: Ring, saved, dy_BTHK: jax.Array):
    """Weights are computed again, and gradients of keys and values travel with them until they are at home."""
    queries, keys, scores, y, log_z = saved
    dy = attention.by_group(dy_BTHK, keys.k_BGSK.shape[1])
    # A weight's gradient is without what the softmax's denominator takes from all of them alike.
    mean = jnp.sum(dy * y, -1, keepdims=True)
    own = queries.q_BTHK, scores.bias

    def see(gradients, keys: Keys, d_keys, stop):
        def share(own, k_BGSK, v_BGSK):
            """What these keys add to the output and to the sum of weights, for the denominator as it turned out."""
            q_BTHK, bias = own
            these = dataclasses.replace(keys, k_BGSK=k_BGSK, v_BGSK=v_BGSK)
            logits, allowed = _logits(ring, stop, queries.replace(q_BTHK=q_BTHK), these, dataclasses.replace(scores, bias=bias))
            weights = jnp.where(allowed, jnp.exp(logits - log_z), 0.0)
            values = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(v_BGSK.dtype), v_BGSK)
            return values, weights.sum(-1, keepdims=True)

        _, pull = jax.vjp(share, own, keys.k_BGSK, keys.v_BGSK)
        d_own, *d_these = pull((dy.astype(keys.v_BGSK.dtype), -mean))
        return jax.tree.map(_added, gradients, d_own), jax.tree.map(_added, d_keys, tuple(d_these))

    def turn(carry, stop):
        keys, d_keys, gradients = carry
        gradients, d_keys = see(gradients, keys, d_keys, stop)
        return (*ring.shifted((keys, d_keys), 1), gradients), None

    zeros = functools.partial(jax.tree.map, lambda a: jnp.zeros_like(a, jnp.float32))
    start = ring.shifted(keys, -ring.ahead), zeros((keys.k_BGSK, keys.v_BGSK)), zeros(own)
    (last, d_keys, gradients), _ = jax.lax.scan(turn, start, jnp.arange(ring.stops - 1))
    (d_q, d_bias), d_keys = see(gradients, last, d_keys, ring.stops - 1)
    d_k, d_v = ring.shifted(d_keys, ring.ahead - ring.stops + 1)
    d_sinks = None
    if scores.sinks_H is not None:
        # A key of value zero.
        sinks = jnp.exp(scores.sinks_H.reshape(keys.k_BGSK.shape[1], -1, 1, 1) - log_z)
        d_sinks = -jnp.sum(sinks * mean, (0, 3, 4)).reshape(-1)
    (d_q, d_bias, d_sinks, d_k, d_v) = jax.tree.map(
        lambda d, a: d.astype(a.dtype), (d_q, d_bias, d_sinks, d_k, d_v), (*own, scores.sinks_H, keys.k_BGSK, keys.v_BGSK)
    )
    d_scores = dataclasses.replace(scores, bias=d_bias, sinks_H=d_sinks)
    return Queries(d_q, None, None, None), Keys(d_k, d_v, None, None, keys.aligned), d_scores


around.defvjp(_forward, _backward)


def _added(total: jax.Array, more: jax.Array) -> jax.Array:
    return total + more.astype(jnp.float32)


def _logits(ring: Ring, stop, queries: Queries, keys: Keys, scores: Scores) -> tuple[jax.Array, jax.Array]:
    """Scores of the keys that are here at this stop, and which are seen (B, 1, 1, T, S)."""
    offset = ring.offset(stop, keys.positions_BS.shape[1]) if keys.aligned else None
    coordinates = queries.positions_BT, queries.segments_BT
    logits, allowed_BTS = attention.logits(queries.q_BTHK, *coordinates, keys, scores, offset, queries.ranks_BT)
    return logits, allowed_BTS[:, None, None]
