"""Attention where every device has a part of the sequence, of queries and of keys.

gathered    Every device gathers all keys and values for its own queries. It can do whatever attention can.
all_to_all  An exchange gives every device all of the sequence for some of the heads, which attend as on one device, and another one
            gives back what comes of it (Jacobs et al. 2023, arXiv:2309.14509). Heads have to divide over the devices.
ring        Keys and values travel from device to device, and each adds what they give to its own queries, with the softmax's sums
            in float32 (Liu et al. 2023, arXiv:2310.01889). Under a mask with a window they travel no further than it reaches.

"auto" takes a ring where a window of at least a device's part ends it early and less is sent so. Else it exchanges where heads
divide: under a causal mask half of what a ring computes is masked, and the last device has all of the other half; under a window
shorter than a part most of it is; and on TPU what was exchanged goes to the kernel. Else it takes a ring, and it gathers where
nothing else is possible: under dropout, whose random numbers are drawn for all weights at once, and masks that differ by head.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from taxonomy import sharding
from taxonomy.errors import UserError
from taxonomy.ops import attention
from taxonomy.ops.attention import Keys, Scores
from taxonomy.ops.masks import AttentionMask
from taxonomy.ops.ring import Queries, Ring, around

Places = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where the dimensions of queries and keys stand, see `sharding.place`; `count` devices have a part of the sequence each."""

    batch: Places
    time: Places
    heads: Places

    @property
    def count(self) -> int:
        return sharding.over(self.time)

    @property
    def of_queries(self) -> PartitionSpec:
        """Where queries stand, and outputs."""
        return PartitionSpec(self.batch, self.time, self.heads)

    def key_heads(self, groups: int, times: int = 1) -> int:
        """Key-value heads, repeated as often as it takes to have some for each of `times` as many devices as heads stand over."""
        return math.lcm(groups, times * sharding.over(self.heads))


def attend(q_BTHK, q_positions_BT, q_segments_BT, keys: Keys, scores: Scores, way: str, q_ranks_BT=None) -> jax.Array:
    """`attention.attend` in the named way, or in the one that `auto` takes. Raises UserError where the named one is impossible."""
    places = zip(("batch", "time", "heads"), q_BTHK.shape, strict=False)
    parts = Parts(*(sharding.place(*one) for one in places))
    queries = Queries(q_BTHK, q_positions_BT, q_segments_BT, q_ranks_BT)
    hindrances = _hindrances(parts, queries, keys, scores)
    possible = [one for one, hindrance in hindrances.items() if hindrance is None]
    ring = Ring.of(parts.time, parts.count, keys, scores.mask) if "ring" in possible else None
    if way == "auto":
        short = ring is not None and _pays(ring, parts, q_BTHK.shape, keys, scores.mask)
        way = next(one for one in (*["ring"] * short, "all_to_all", "ring", "gathered") if one in possible)
    if way not in possible:
        raise UserError(f"attention: '{way}' is impossible here: {hindrances[way]}; allowed: auto, {', '.join(possible)}")
    if way == "gathered":
        return _gathered(parts, queries, keys, scores)
    if way == "all_to_all":
        return _exchanged(parts, queries, keys, scores)
    return _in_ring(parts, queries, keys, scores, ring)


def _pays(ring: Ring, parts: Parts, shape: tuple[int, ...], keys: Keys, mask: AttentionMask) -> bool:
    """Whether a ring ends early, computes little that is masked, and sends less than an exchange, which the kernel could follow."""
    if sharding.platform() == "tpu" or ring.stops == parts.count or shape[1] // parts.count > mask.window + mask.ahead:
        return False
    # In heads of a device's tokens times devices.
    groups = keys.k_BGSK.shape[1]
    exchanged = (parts.count - 1) * (shape[2] + parts.key_heads(groups, parts.count))
    return ring.sends * parts.count * parts.key_heads(groups) < exchanged


def _hindrances(parts: Parts, queries: Queries, keys: Keys, scores: Scores) -> dict[str, str | None]:
    """Why a way is impossible, or None."""
    heads, length = queries.q_BTHK.shape[2], keys.positions_BS.shape[1]
    both = None
    if scores.dropout is not None:
        both = "there is dropout"
    elif scores.mask.by_head or scores.totals:
        both = "the mask differs by head"
    elif sharding.place("time", length) != parts.time:
        both = f"{length} keys do not divide over {parts.count} devices"
    exchanged = sharding.over(parts.heads) * parts.count
    undivided = None if heads % exchanged == 0 else f"{heads} heads do not divide over {exchanged} devices"
    by_token = scores.bias is not None and any("batch" in axes for axes in scores.bias.axes)
    return {
        "ring": both or ("what positions add depends on tokens" if by_token else None),
        "all_to_all": both or undivided,
        "gathered": None,
    }


def _with_heads(keys: Keys, groups: int) -> Keys:
    """Keys and values whose heads are repeated."""
    times = groups // keys.k_BGSK.shape[1]
    if times == 1:
        return keys
    return dataclasses.replace(keys, k_BGSK=jnp.repeat(keys.k_BGSK, times, 1), v_BGSK=jnp.repeat(keys.v_BGSK, times, 1))


def _gathered(parts: Parts, queries: Queries, keys: Keys, scores: Scores) -> jax.Array:
    groups = sharding.place("kv_heads", keys.k_BGSK.shape[1])
    whole = PartitionSpec(parts.batch, groups)
    k_BGSK, v_BGSK = (jax.lax.with_sharding_constraint(a, whole) for a in (keys.k_BGSK, keys.v_BGSK))
    q_BTHK = jax.lax.with_sharding_constraint(queries.q_BTHK, parts.of_queries)
    # Queries are not all there: their place among the keys is not a number for every device.
    keys = dataclasses.replace(keys, k_BGSK=k_BGSK, v_BGSK=v_BGSK, aligned=False)
    y_BTHK = attention.reference(q_BTHK, queries.positions_BT, queries.segments_BT, keys, scores, queries.ranks_BT)
    return jax.lax.with_sharding_constraint(y_BTHK, parts.of_queries)


def _exchanged(parts: Parts, queries: Queries, keys: Keys, scores: Scores) -> jax.Array:
    def local(queries, keys, scores):
        q_BTHK = jax.lax.all_to_all(queries.q_BTHK, parts.time, 2, 1, tiled=True)
        k_BGSK, v_BGSK = (jax.lax.all_to_all(a, parts.time, 1, 2, tiled=True) for a in (keys.k_BGSK, keys.v_BGSK))
        keys = dataclasses.replace(keys, k_BGSK=k_BGSK, v_BGSK=v_BGSK)
        y_BTHK = attention.auto(q_BTHK, queries.positions_BT, queries.segments_BT, keys, scores, queries.ranks_BT)
        return jax.lax.all_to_all(y_BTHK, parts.time, 1, 2, tiled=True)

    keys = _with_heads(keys, parts.key_heads(keys.k_BGSK.shape[1], parts.count))
    specs = _specs(parts, queries, keys, scores, PartitionSpec(parts.batch), parts.heads + parts.time)
    return sharding.locally(local, specs, parts.of_queries, checked=sharding.platform() != "tpu")(queries, keys, scores)


def _in_ring(parts: Parts, queries: Queries, keys: Keys, scores: Scores, ring: Ring) -> jax.Array:
    keys, every = _with_heads(keys, parts.key_heads(keys.k_BGSK.shape[1])), parts.batch + parts.time + parts.heads
    specs = _specs(parts, queries, keys, scores, PartitionSpec(parts.batch, parts.time), parts.heads)

    def local(*inputs):
        queries, keys, scores = jax.tree.map(lambda spec, part: sharding.apart(part, every, spec), specs, inputs, is_leaf=_is_spec)
        return around(ring, queries, keys, scores).astype(queries.q_BTHK.dtype)

    return sharding.locally(local, specs, parts.of_queries)(queries, keys, scores)


def _specs(parts: Parts, queries: Queries, keys: Keys, scores: Scores, of_tokens: PartitionSpec, of_heads: Places) -> tuple:
    """Where all that attention reads is to stand: coordinates at `of_tokens`, what else has a dimension of heads at `of_heads`."""

    def coordinates(tree, *names: str):
        return {name: None if getattr(tree, name) is None else of_tokens for name in names}

    of_queries = Queries(parts.of_queries, **coordinates(queries, "positions_BT", "segments_BT", "ranks_BT"))
    of_keys = dataclasses.replace(
        keys,
        **dict.fromkeys(("k_BGSK", "v_BGSK"), PartitionSpec(parts.batch, parts.heads, parts.time)),
        **coordinates(keys, "positions_BS", "segments_BS", "prefix_BS", "ranks_BS"),
    )
    places, bias = {"heads": of_heads, "batch": parts.batch, None: None}, scores.bias
    if bias is not None:
        bias = bias.replace(arrays=tuple(PartitionSpec(*(places[axis] for axis in axes)) for axes in bias.axes))
    sinks = None if scores.sinks_H is None else PartitionSpec(of_heads)
    return of_queries, of_keys, dataclasses.replace(scores, bias=bias, sinks_H=sinks)


def _is_spec(leaf) -> bool:
    return isinstance(leaf, PartitionSpec)
