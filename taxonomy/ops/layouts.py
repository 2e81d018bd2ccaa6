"""The rows that experts compute, on one device or many.

On a mesh every device gives slots to its own tokens. Where experts stand over devices that also share the batch ("peers"):

* With a capacity a device has as many slots for each expert, and sends each peer those of its experts: an all-to-all, and another
  one back.
* Without, all tokens might go to experts of a single peer, and shapes have to be known before. With slots for that, an all-to-all
  would send `top_k` copies of every token to every peer. So every device gathers the tokens of its peers instead, one copy each,
  computes its own experts, and what comes of them is summed and scattered back. There is room for all assignments of all peers, but
  blocks that none uses are not multiplied. Over many peers a capacity is the better choice.

Kernels of experts are gathered from the devices that they share with the batch ("fsdp"), never from other experts' devices. Experts
that the peers do not divide stand on all of them, and every device computes its own tokens. Rows of a batch that do not divide over
devices stand on all of them, and every device computes its own experts.

Devices that have parts of the same rows compute their own tokens where all get slots and assignments are in the order of tokens.
Else each of them computes all tokens of the rows, which share what room there is.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from taxonomy import sharding
from taxonomy.ops import overflow as overflow_lib
from taxonomy.ops.dispatch import Assignments, Slots, ranks
from taxonomy.ops.grouped_matmul import Groups, Place
from taxonomy.ops.overflow import Experts, Overflow

# Rows of a block at most; more are no faster.
_BLOCK = 128
# With fewer rows on average, experts have no slots: reading the matrices of all would cost more than copying those in use.
_FEW = 8


@dataclasses.dataclass(frozen=True)
class Peers:
    """Where rows of a batch (`batch`) and experts (`experts`) stand, and parts of rows (`time`); see `sharding.place`."""

    batch: Place
    experts: Place
    time: Place = ()

    @classmethod
    def of(cls, batch: int, experts: int) -> "Peers":
        return cls(sharding.place("batch", batch), sharding.place("experts", experts))

    @property
    def exchange(self) -> bool:
        """Whether devices with other experts have other tokens."""
        return bool(self.experts) and set(self.experts) <= set(self.batch)

    @property
    def others(self) -> Place:
        """Where rows of a batch stand that peers have in common."""
        return tuple(axis for axis in self.batch if axis not in self.experts)

    @property
    def rows(self) -> Place:
        """Where rows for experts stand that every device has for itself."""
        return self.batch + self.time + tuple(axis for axis in self.experts if axis not in self.batch)

    @property
    def tokens(self) -> PartitionSpec:
        """Where tokens stand, (B, T, ...)."""
        return PartitionSpec(self.batch, self.time)

    def own(self, experts: int) -> tuple[int | jax.Array, int]:
        """The first of a device's experts, and how many it has."""
        count = experts // sharding.over(self.experts)
        return (jax.lax.axis_index(self.experts) * count if self.experts else 0), count


@dataclasses.dataclass(frozen=True)
class Layout:
    """Slots for assignments of tokens x_BTD; subclasses say how their rows come to the experts and back."""

    slots: Slots
    peers: Peers

    def dropped(self) -> jax.Array:
        """How many live assignments no expert takes."""
        raise TypeError("a subclass defines dropped")


@dataclasses.dataclass(frozen=True)
class Rows(Layout):
    """Rows for the experts to compute, as `groups` say."""

    groups: Groups

    def gather(self, x_BTD: jax.Array, weigh: bool) -> jax.Array:
        """The rows that experts compute, weighted if told."""
        specs = self.peers.tokens, PartitionSpec(self._slots())
        return sharding.locally(lambda x_BTD, slots: self._gather(x_BTD, slots, weigh), specs, self._rows())(x_BTD, self.slots)

    def scatter(self, y: jax.Array, x_BTD: jax.Array, weigh: bool) -> jax.Array:
        """The sum of what experts made of each token, weighted if told, (B, T, D); zeros for tokens that none took."""
        rows, time, _ = x_BTD.shape
        rows, time = rows // sharding.over(self.peers.batch), time // sharding.over(self.peers.time)
        specs = self._rows(), PartitionSpec(self._slots())
        local = lambda y, slots: self._scatter(y, slots, rows, time, weigh)  # noqa: E731
        return sharding.locally(local, specs, self.peers.tokens)(y, self.slots)

    def _slots(self) -> Place:
        """Where slots stand."""
        raise TypeError("a subclass defines _slots")

    def _rows(self) -> PartitionSpec:
        """Where rows for experts stand."""
        raise TypeError("a subclass defines _rows")

    def _gather(self, x_BTD: jax.Array, slots: Slots, weigh: bool) -> jax.Array:
        """`gather` of a device's part."""
        raise TypeError("a subclass defines _gather")

    def _scatter(self, y: jax.Array, slots: Slots, rows: int, time: int, weigh: bool) -> jax.Array:
        """`scatter` of a device's part, to so many rows of the batch."""
        raise TypeError("a subclass defines _scatter")


class WithCapacity(Rows):
    """As many slots for every expert in every row of the batch; experts compute (E, B C, D)."""

    def dropped(self) -> jax.Array:
        return jnp.sum(self.slots.assignments.live_BA & (self.slots.slots_BA == self.slots.size))

    def _slots(self) -> Place:
        return self.peers.batch

    def _rows(self) -> PartitionSpec:
        return PartitionSpec(self.peers.experts, self.peers.others)

    def _gather(self, x_BTD: jax.Array, slots: Slots, weigh: bool) -> jax.Array:
        rows_BSD = slots.gather(x_BTD, weigh)
        rows_BECD = rows_BSD.reshape(x_BTD.shape[0], self.groups.count, -1, x_BTD.shape[2])
        if self.peers.exchange:
            rows_BECD = jax.lax.all_to_all(rows_BECD, self.peers.experts, split_axis=1, concat_axis=0, tiled=True)
        elif self.peers.experts:
            rows_BECD = jax.lax.dynamic_slice_in_dim(rows_BECD, *self.peers.own(self.groups.count), 1)
        return rows_BECD.swapaxes(0, 1).reshape(rows_BECD.shape[1], -1, x_BTD.shape[2])

    def _scatter(self, y: jax.Array, slots: Slots, rows: int, time: int, weigh: bool) -> jax.Array:
        y_BECD = y.reshape(y.shape[0], -1, slots.size // self.groups.count, y.shape[2]).swapaxes(0, 1)
        if self.peers.exchange:
            y_BECD = jax.lax.all_to_all(y_BECD, self.peers.experts, split_axis=0, concat_axis=1, tiled=True)
        elif self.peers.experts:
            first, _ = self.peers.own(self.groups.count)
            everyone = jnp.zeros((rows, self.groups.count, *y_BECD.shape[2:]), y.dtype)
            y_BECD = jax.lax.psum(jax.lax.dynamic_update_slice_in_dim(everyone, y_BECD, first, 1), self.peers.experts)
        return slots.scatter(y_BECD.reshape(rows, slots.size, -1), time, weigh)


def with_capacity(assignments: Assignments, experts: int, capacity: int, room_B: jax.Array | None = None) -> WithCapacity:
    """`capacity` slots for every expert and row, taken in order of precedence; of them a row uses room_B, or all."""
    if room_B is None:
        room_B = jnp.full(assignments.tokens_BA.shape[0], capacity)
    peers = Peers.of(assignments.tokens_BA.shape[0], experts)

    def local(assignments, room_B):
        experts_BA = jnp.where(assignments.live_BA, assignments.experts_BA, experts)
        ranks_BA, _ = jax.vmap(lambda row: ranks(row, experts))(experts_BA)
        kept_BA = (experts_BA < experts) & (ranks_BA < room_B[:, None])
        slots_BA = jnp.where(kept_BA, experts_BA * capacity + ranks_BA, experts * capacity)
        return Slots(assignments, slots_BA, experts * capacity)

    place = PartitionSpec(peers.batch)
    return WithCapacity(sharding.locally(local, (place, place), place)(assignments, room_B), peers, Groups(experts))


class Dropless(Layout):
    """Room for everyone on every device, as if all its rows of the batch were one."""

    def dropped(self) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def _bring(self, x_BTD: jax.Array) -> jax.Array:
        """All tokens that a device's experts may get, (1, N, D), from its own."""
        if self.peers.exchange:
            x_BTD = jax.lax.all_gather(x_BTD, self.peers.experts, tiled=True)
        elif self.peers.experts:
            # Each device takes others of the tokens that all have; gradients are summed.
            x_BTD = sharding.apart(x_BTD, self.peers.experts)
        return x_BTD.reshape(1, -1, x_BTD.shape[2])

    def _return(self, y_1ND: jax.Array, time: int) -> jax.Array:
        """The sum of what all experts made of a device's own tokens, in rows of `time`."""
        y_BTD = y_1ND.reshape(-1, time, y_1ND.shape[2])
        if self.peers.exchange:
            return jax.lax.psum_scatter(y_BTD, self.peers.experts, tiled=True)
        return jax.lax.psum(y_BTD, self.peers.experts) if self.peers.experts else y_BTD


class Sorted(Dropless, Rows):
    """A slot for everyone, sorted by expert; experts compute (N, D)."""

    def _slots(self) -> Place:
        return self.peers.rows

    def _rows(self) -> PartitionSpec:
        return PartitionSpec(self.peers.rows)

    def _gather(self, x_BTD: jax.Array, slots: Slots, weigh: bool) -> jax.Array:
        return slots.gather(self._bring(x_BTD), weigh)[0]

    def _scatter(self, y: jax.Array, slots: Slots, rows: int, time: int, weigh: bool) -> jax.Array:
        if self.peers.exchange:
            rows *= sharding.over(self.peers.experts)
        return self._return(slots.scatter(y[None], rows * time, weigh), time)


@dataclasses.dataclass(frozen=True)
class WithOverflow(Dropless):
    """As many slots for every expert, and blocks of rows for what exceeds them; see `ops.overflow`."""

    overflow: Overflow

    def compute(self, experts: Experts, params: Any, places: Any, hidden: Place, x_BTD: jax.Array, weigh_input: bool) -> jax.Array:
        """The weighted sum of what experts make of each token, (B, T, D); zeros for tokens that none took.

        places: of the parameters, a tree of PartitionSpecs. hidden: where the experts' hidden features stand, over which what
        `experts` returns is summed. weigh_input: whether weights multiply what an expert gets, or what it gives.
        """
        every = {*self.peers.rows, *hidden}

        def local(x_BTD, slots, overflow, params):
            time, d = x_BTD.shape[1:]
            x_1ND = self._bring(x_BTD)
            slots_EMD = slots.gather(x_1ND, weigh_input).reshape(jax.tree.leaves(params)[0].shape[0], -1, d)
            params = jax.tree.map(lambda p, place: sharding.apart(p, every, place), params, places)
            own = (slots_EMD, x_1ND[0], slots.assignments.weights_BA[0])
            arrays = (sharding.apart(a, every, rows) for a in own)
            y_EMD, y_ND = overflow_lib.computed(experts, weigh_input, params, *arrays, overflow)
            y_1ND = slots.scatter(y_EMD.reshape(1, -1, d), y_ND.shape[0], not weigh_input) + y_ND
            return self._return(jax.lax.psum(y_1ND, hidden) if hidden else y_1ND, time)

        tokens, rows = self.peers.tokens, PartitionSpec(self.peers.rows)
        return sharding.locally(local, (tokens, rows, rows, places), tokens)(x_BTD, self.slots, self.overflow, params)


def dropless(assignments: Assignments, experts: int, time: int, implementation: str) -> Sorted | WithOverflow:
    """Room for everyone, for assignments of rows of `time` tokens.

    With "blocks" all experts have as many slots, and what exceeds those comes in blocks, with "ragged" they follow one another.
    """
    peers = Peers.of(assignments.tokens_BA.shape[0], experts)
    if assignments.choices is not None:
        peers = dataclasses.replace(peers, time=sharding.place("time", time))
        time //= sharding.over(peers.time)

    def local(assignments):
        if peers.time:
            first = jax.lax.axis_index(peers.time) * time
            assignments = assignments.replace(tokens_BA=assignments.tokens_BA - first)
        if peers.exchange:
            assignments = jax.tree.map(lambda a: jax.lax.all_gather(a, peers.experts, tiled=True), assignments)
        first, count = peers.own(experts)
        assignments = assignments.in_one_row(time).of_experts(first, count)
        if implementation == "ragged":
            return _sorted(assignments, count)
        return _with_overflow(assignments, count, assignments.experts_BA.size // experts)

    specs = (peers.tokens,), PartitionSpec(peers.rows)
    slots, rest = sharding.locally(local, *specs)(assignments)
    if implementation == "ragged":
        return Sorted(slots, peers, Groups(experts, rest, peers.rows, peers.experts))
    return WithOverflow(slots, peers, rest)


def _sorted(assignments: Assignments, experts: int) -> tuple[Slots, jax.Array]:
    """Slots for the assignments (1, A) of a single row, and how many each expert has."""
    experts_A = jnp.where(assignments.live_BA, assignments.experts_BA, experts)[0]
    ranks_A, counts_E = ranks(experts_A, experts)
    total = experts_A.size
    starts_E = jnp.cumsum(counts_E) - counts_E
    slots_A = jnp.append(starts_E, total)[experts_A] + ranks_A
    return Slots(assignments, jnp.minimum(slots_A, total)[None], total), counts_E.astype(jnp.int32)


def _with_overflow(assignments: Assignments, experts: int, mean: int) -> tuple[Slots, Overflow]:
    """Slots for the assignments (1, A) of a single row, and blocks for the rest. mean: what an expert gets when all get as many."""
    experts_A = jnp.where(assignments.live_BA, assignments.experts_BA, experts)[0]
    ranks_A, counts_E = ranks(experts_A, experts)
    total = experts_A.size
    block = min(_BLOCK, max(8, 1 << (mean // 4 - 1).bit_length()))
    even = _even(mean)
    blocks_E = -(-jnp.maximum(counts_E - even, 0) // block)
    # As many as there may be: with any beyond its slots, an expert has filled those.
    blocks = max(total - even, 0) // block + (1 if even >= block else min(experts, total))
    ends_E = jnp.cumsum(blocks_E)
    of_G = jnp.searchsorted(ends_E, jnp.arange(blocks), side="right").clip(max=experts - 1)
    fits_A = ranks_A < even
    slots_A = jnp.where(fits_A & (experts_A < experts), experts_A * even + ranks_A, experts * even)
    starts_E = jnp.append((ends_E - blocks_E) * block, blocks * block)  # nobody's begin where there is no row
    rows_A = jnp.where(fits_A, blocks * block, starts_E[experts_A] + ranks_A - even)
    rows_GM = jnp.full(blocks * block, total).at[rows_A].set(jnp.arange(total), mode="drop").reshape(blocks, block)
    overflow = Overflow(of_G, ends_E[-1:], rows_GM, assignments.tokens_BA[0])
    return Slots(assignments, slots_A[None], experts * even), overflow


def _even(mean: int) -> int:
    """Slots of every expert: two standard deviations over the mean, if each token went to any expert alike."""
    return -(-(mean + math.isqrt(4 * mean)) // 8) * 8 if mean >= _FEW else 0
