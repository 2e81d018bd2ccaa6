"""From tokens to the rows that experts compute, and back.

A router's `Assignments` send tokens of a row of the batch to experts, in order of precedence. A `Layout` gives each of them a slot
of a buffer: with a capacity the first so many of every expert and row, else all of them, sorted by expert. An assignment without a
slot is dropped.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy.ops.grouped_matmul import Groups

_BLOCK = 128  # rows of a block at most: fewer waste less on experts with few rows, more are faster


@struct.dataclass
class Assignments:
    """What a router decided.

    In row b, assignment a sends token tokens_BA to expert experts_BA, where live_BA; earlier ones take precedence. weights_BA,
    float32, weigh what the expert makes of the token. choices: how many assignments every token has, one after another, or None
    when they come in another order.
    """

    tokens_BA: jax.Array
    experts_BA: jax.Array
    weights_BA: jax.Array
    live_BA: jax.Array
    choices: int | None = struct.field(pytree_node=False, default=None)

    def in_one_row(self, time: int) -> "Assignments":
        """The assignments (1, B A) of all rows as if the rows, of `time` tokens, were a single one."""
        tokens_BA = self.tokens_BA + time * jnp.arange(self.tokens_BA.shape[0])[:, None]
        flat = (a.reshape(1, -1) for a in (tokens_BA, self.experts_BA, self.weights_BA, self.live_BA))
        return Assignments(*flat, self.choices)


def by_token(experts_BTC: jax.Array, weights_BTC: jax.Array, live_BTC: jax.Array, choices_first: bool = False) -> Assignments:
    """Assignments of C choices of every token: tokens in order, or with `choices_first` all first choices before any second."""
    batch, time, choices = experts_BTC.shape
    tokens_BTC = jnp.broadcast_to(jnp.arange(time)[:, None], experts_BTC.shape)

    def flat(a_BTC: jax.Array) -> jax.Array:
        return (a_BTC.swapaxes(1, 2) if choices_first else a_BTC).reshape(batch, time * choices)

    arrays = map(flat, (tokens_BTC, experts_BTC, weights_BTC, live_BTC))
    return Assignments(*arrays, None if choices_first and choices > 1 else choices)


def ranks(experts_A: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    """How many earlier assignments go to the same expert, (A,), and how many go to each, (E,). Expert E is nobody."""
    order_A = jnp.argsort(experts_A, stable=True)
    counts_E = jnp.bincount(experts_A, length=experts + 1)
    starts_E = jnp.cumsum(counts_E) - counts_E
    places_A = jnp.arange(experts_A.size) - starts_E[experts_A[order_A]]
    return jnp.zeros_like(experts_A).at[order_A].set(places_A.astype(experts_A.dtype)), counts_E[:-1]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Slots for the assignments of R independent rows: slots_RA, of `size` in each; `size` itself is no slot.

    `groups` see there.
    """

    assignments: Assignments
    slots_RA: jax.Array
    size: int
    groups: Groups

    def gather(self, x_RTD: jax.Array) -> jax.Array:
        """The token in every slot, (R, size, D), or zeros."""

        def one(x_TD, slots_A, tokens_A):
            token_S = jnp.full(self.size, x_TD.shape[0], tokens_A.dtype).at[slots_A].set(tokens_A, mode="drop")
            return x_TD.at[token_S].get(mode="fill", fill_value=0)

        return jax.vmap(one)(x_RTD, self.slots_RA, self.assignments.tokens_BA)

    def weights(self) -> jax.Array:
        """The weight of every slot, float32 (R, size)."""
        put = lambda slots_A, weights_A: jnp.zeros(self.size).at[slots_A].set(weights_A, mode="drop")  # noqa: E731
        return jax.vmap(put)(self.slots_RA, self.assignments.weights_BA)

    def scatter(self, y_RSD: jax.Array, time: int, weigh: bool = True) -> jax.Array:
        """The sum of every token's slots, weighted unless told otherwise, (R, T, D); zeros where it has none."""
        choices = self.assignments.choices

        def one(y_SD, slots_A, tokens_A, weights_A):
            y_AD = y_SD.at[slots_A].get(mode="fill", fill_value=0)
            if weigh:
                y_AD = y_AD * weights_A[:, None].astype(y_SD.dtype)
            if choices is not None:
                return y_AD.reshape(time, choices, -1).sum(1)
            return jnp.zeros((time, y_SD.shape[-1]), y_SD.dtype).at[tokens_A].add(y_AD)

        return jax.vmap(one)(y_RSD, self.slots_RA, self.assignments.tokens_BA, self.assignments.weights_BA)

    def dropped(self) -> jax.Array:
        """How many live assignments have no slot."""
        return jnp.sum(self.assignments.live_BA & (self.slots_RA == self.size))


def with_capacity(assignments: Assignments, experts: int, capacity: int) -> Layout:
    """`capacity` slots for every expert and row, taken in order of precedence."""
    experts_BA = jnp.where(assignments.live_BA, assignments.experts_BA, experts)
    ranks_BA, _ = jax.vmap(lambda row: ranks(row, experts))(experts_BA)
    kept_BA = (experts_BA < experts) & (ranks_BA < capacity)
    slots_BA = jnp.where(kept_BA, experts_BA * capacity + ranks_BA, experts * capacity)
    return Layout(assignments, slots_BA, experts * capacity, Groups(experts))


def dropless(assignments: Assignments, experts: int, implementation: str) -> Layout:
    """A slot for everyone, sorted by expert, for assignments of a single row (1, A).

    With "blocks" every expert's slots are padded to whole blocks, with "ragged" they follow one another.
    """
    experts_A = jnp.where(assignments.live_BA, assignments.experts_BA, experts)[0]
    ranks_A, counts_E = ranks(experts_A, experts)
    total = experts_A.size
    if implementation == "ragged":
        ends_E, size = jnp.cumsum(counts_E), total
        starts_E = ends_E - counts_E
        groups = Groups(experts, sizes_E=counts_E.astype(jnp.int32))
    else:
        block = min(_BLOCK, max(8, 1 << (max(1, total // experts) - 1).bit_length()))
        blocks_E = -(-counts_E // block)
        blocks = -(-total // block) + experts  # as many as there may be
        ends_E, size = jnp.cumsum(blocks_E), blocks * block
        starts_E = (ends_E - blocks_E) * block
        of_G = jnp.searchsorted(ends_E, jnp.arange(blocks), side="right").clip(max=experts - 1)
        groups = Groups(experts, of_G=of_G)
    starts_E = jnp.append(starts_E, size)
    slots_A = jnp.minimum(starts_E[experts_A] + ranks_A, size)
    return Layout(assignments, slots_A[None], size, groups)
