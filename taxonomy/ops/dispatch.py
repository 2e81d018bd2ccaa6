"""From tokens to the slots of a buffer, and back.

A router's `Assignments` send tokens of a row of the batch to experts, in order of precedence. A layout (`ops.layouts`) gives each
of them a slot: with a capacity the first so many of every expert and row, else all of them, sorted by expert. An assignment without
a slot is dropped.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from taxonomy import sharding


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

    def of_experts(self, first: int | jax.Array, count: int) -> "Assignments":
        """Those to `count` experts from `first` on, numbered from 0; others are not live."""
        experts_BA = self.experts_BA - first
        return self.replace(experts_BA=experts_BA, live_BA=self.live_BA & (experts_BA >= 0) & (experts_BA < count))


def by_token(experts_BTC: jax.Array, weights_BTC: jax.Array, live_BTC: jax.Array, choices_first: bool = False) -> Assignments:
    """Assignments of C choices of every token: tokens in order, or with `choices_first` all first choices before any second."""
    batch, time, choices = experts_BTC.shape
    tokens_BTC = jnp.broadcast_to(jnp.arange(time)[:, None], experts_BTC.shape)

    def flat(a_BTC: jax.Array) -> jax.Array:
        return (a_BTC.swapaxes(1, 2) if choices_first else a_BTC).reshape(batch, time * choices)

    arrays = map(flat, (tokens_BTC, experts_BTC, weights_BTC, live_BTC))
    return Assignments(*arrays, None if choices_first and choices > 1 else choices)


def top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` of scores (B, ..., E) by every device among its own rows; left to the partitioner it gathers them all."""
    place = PartitionSpec(sharding.place("batch", scores.shape[0]))
    return sharding.locally(lambda scores: jax.lax.top_k(scores, k), (place,), place)(scores)


def ranks(experts_A: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    """How many earlier assignments go to the same expert, (A,), and how many go to each, (E,). Expert E is nobody."""
    order_A = jnp.argsort(experts_A, stable=True)
    counts_E = jnp.bincount(experts_A, length=experts + 1)
    starts_E = jnp.cumsum(counts_E) - counts_E
    places_A = jnp.arange(experts_A.size) - starts_E[experts_A[order_A]]
    return jnp.zeros_like(experts_A).at[order_A].set(places_A.astype(experts_A.dtype)), counts_E[:-1]


@struct.dataclass
class Slots:
    """Slots for the assignments of independent rows: slots_BA, of `size` in each; that itself is no slot."""

    assignments: Assignments
    slots_BA: jax.Array
    size: int = struct.field(pytree_node=False)

    def gather(self, x_BTD: jax.Array, weigh: bool) -> jax.Array:
        """The token in every slot, weighted if told, (B, size, D); zeros where there is none."""
        choices = self.assignments.choices

        def one(x_TD, slots_A, tokens_A, weights_A):
            x_AD = x_TD[tokens_A] if choices is None else jnp.repeat(x_TD, choices, 0)
            if weigh:
                x_AD = x_AD * weights_A[:, None].astype(x_TD.dtype)
            return _moved(x_AD, self._of_slots(slots_A), slots_A)

        return jax.vmap(one)(x_BTD, self.slots_BA, self.assignments.tokens_BA, self.assignments.weights_BA)

    def scatter(self, y_BSD: jax.Array, time: int, weigh: bool) -> jax.Array:
        """The sum of every token's slots, weighted if told, (B, T, D); zeros where it has none."""
        choices = self.assignments.choices

        def one(y_SD, slots_A, tokens_A, weights_A):
            y_AD = _moved(y_SD, slots_A, self._of_slots(slots_A))
            if weigh:
                y_AD = y_AD * weights_A[:, None].astype(y_AD.dtype)
            if choices is not None:
                return y_AD.reshape(time, choices, -1).sum(1)
            return jnp.zeros((time, y_AD.shape[-1]), y_AD.dtype).at[tokens_A].add(y_AD)

        return jax.vmap(one)(y_BSD, self.slots_BA, self.assignments.tokens_BA, self.assignments.weights_BA)

    def _of_slots(self, slots_A: jax.Array) -> jax.Array:
        """The assignment in every slot; their number where there is none."""
        return jnp.full(self.size, slots_A.size).at[slots_A].set(jnp.arange(slots_A.size), mode="drop")


@jax.custom_vjp
def _moved(x_ND: jax.Array, from_M: jax.Array, to_N: jax.Array) -> jax.Array:
    """The row of x that each of M places is from, zeros where that is N; to_N: the place of each row of x, or M."""
    if not len(x_ND):
        return jnp.zeros_like(x_ND, shape=(*from_M.shape, x_ND.shape[1]))
    return x_ND.at[from_M].get(mode="fill", fill_value=0)


# No row is in two places, so that the gradient is gathered too, where that of indexing is scattered.
_moved.defvjp(
    lambda x_ND, from_M, to_N: (_moved(x_ND, from_M, to_N), (from_M, to_N)),
    lambda places, dy_MD: (_moved(dy_MD, places[1], places[0]), None, None),
)
