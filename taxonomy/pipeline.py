"""Layers in stages on devices of their own, and microbatches that pass through them in turn.

The schedule is GPipe's (Huang et al. 2019, arXiv:1811.06965, section 2.3): while a stage computes a microbatch, the stage before it
computes the next one. All stages are computed at a time, as one array dimension that stands over the mesh axis "stage", and in each
turn what they give moves to the next stage. With s stages and m microbatches there are m + s - 1 turns; in s - 1 of them a device
computes what nobody reads, from real tokens, so that it stays finite.

The rows of a device are divided into as many microbatches as begin there, an equal share of all. Waiting microbatches move a stage
nearer to the first one each time that it takes one of theirs; what leaves the last stage follows them, and so comes back to where
it began. Nothing is ever on all stages at once. All that layers are told of tokens travels with them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from taxonomy import sharding
from taxonomy.layers.context import Context
from taxonomy.layers.routing import Report
from taxonomy.sharding import STAGE

# The parameters of one turn of a repeat, the stream, its context, a random key or None -> the stream and what layers report.
Turn = Callable[[Any, jax.Array, Context, jax.Array | None], tuple[jax.Array, Any]]

# Microbatches at most that begin at a stage, where nothing else is said: a device then idles in less than a fifth of all turns.
_EACH = 4
# Of a context, what all rows have in common.
_COMMON = ("relative_NH", "query_11D")


def microbatches(context: Context, wanted: int | None = None) -> int:
    """In how many parts the rows pass through the stages; 0 where there are none, or they do not divide the rows.

    At most `wanted`, or four for each stage; as many as divide the rows.
    """
    stages, rows = sharding.stages(), context.positions_BT.shape[0]
    devices = sharding.over(sharding.place("batch", rows)) if stages > 1 else 1
    # The two streams of a row stay together.
    together = 1 if context.ranks_BT is None else 2
    if devices == 1 or rows % (devices * together):
        return 0
    most, own = max(1, wanted // stages if wanted else _EACH), rows // devices // together
    return stages * max(n for n in range(1, most + 1) if own % n == 0)


def projections(primitive: Any, *_: Any, **params: Any) -> bool:
    """What `checkpoint_dots_with_no_batch_dims` keeps, where stages are a dimension of all products."""
    return primitive.name == "dot_general" and len(params["dimension_numbers"][1][0]) <= 1


def through(
    turn: Turn, params: Any, x_BTD: jax.Array, context: Context, number: int, key: jax.Array | None
) -> tuple[jax.Array, Any]:
    """What the turns of a repeat make of the stream in so many microbatches, and what their layers report of all of them.

    params: of all turns, on a leading axis that stages divide.
    """
    stages = sharding.stages()
    each = number // stages
    common = {name: getattr(context, name) for name in _COMMON}
    context = context.replace(**dict.fromkeys(_COMMON))
    params = jax.tree.map(lambda a: a.reshape(stages, -1, *a.shape[1:]), params)

    def stage(params, x_BTD, context, key):
        turns = jax.tree.leaves(params)[0].shape[0]
        keys = None if key is None else jax.random.split(key, turns)
        return jax.lax.scan(lambda x, own: turn(own[0], x, context.replace(**common), own[1]), x_BTD, (params, keys))

    def at(place: int, one: Any, other: Any) -> Any:
        """One thing at this stage, the other one at all others."""
        return jax.tree.map(lambda a, b: _chosen(place, a, b), one, other)

    def step(carry, i):
        held, waiting = carry
        slot = i % each
        coming = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, slot, 1, keepdims=False), waiting)
        x_SBTD, contexts = at(0, coming, held)
        keys = None if key is None else jax.random.split(jax.random.fold_in(key, i), stages)
        with sharding.in_stage():
            x_SBTD, reports = jax.vmap(stage, spmd_axis_name=STAGE)(params, x_SBTD, contexts, keys)
        given = x_SBTD, contexts
        left = at(stages - 1, given, jax.tree.map(lambda a: _moved(a, -1), coming))
        waiting = jax.tree.map(lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, slot, 1), waiting, left)
        return (jax.tree.map(lambda a: _moved(a, 1), given), waiting), reports

    waiting = jax.tree.map(lambda a: _divided(a, each), (x_BTD, context))
    start = jax.tree.map(lambda a: a[:, 0], waiting)
    (_, (x_SNBTD, _)), reports = jax.lax.scan(step, (start, waiting), jnp.arange(number + stages - 1))
    # The last of them are a slot further for each turn that they came late.
    x_BTD = _joined(jnp.roll(x_SNBTD, 1 - stages, 1), _time(x_BTD.shape))
    return x_BTD, jax.tree.map(lambda one: _of_all(one, number), reports, is_leaf=lambda leaf: isinstance(leaf, Report))


def _of_all(report: Report, number: int) -> Report:
    """What layers report of each microbatch in each step, (steps, stages, turns of a stage, ...), as one report of all turns."""

    def real(a: jax.Array) -> jax.Array:
        """(stages, microbatches, ...)."""
        own = lambda a, stage: jax.lax.dynamic_slice_in_dim(a, stage, number, 0)  # noqa: E731
        return jax.vmap(own, in_axes=(1, 0))(a, jnp.arange(a.shape[1]))

    def of_turns(a: jax.Array) -> jax.Array:
        return a.reshape(-1, *a.shape[2:])

    # Losses of rows go back to the places of the rows.
    loss_SN___B = real(report.loss_B)
    loss_NBS___ = jnp.moveaxis(loss_SN___B, (1, -1), (0, 1))
    stages = loss_SN___B.shape[0]
    loss_BS___ = _joined(loss_NBS___.reshape(stages, -1, *loss_NBS___.shape[1:]), ())
    summed = jax.tree.map(lambda a: of_turns(real(a).sum(1)), report)
    return summed.replace(loss_B=of_turns(jnp.moveaxis(loss_BS___, 0, -1)))


def _moved(a: jax.Array, step: int) -> jax.Array:
    """What each stage held at the stage so many steps on; what comes from nowhere is zero."""
    stages = a.shape[0]
    pairs = [(i, i + step) for i in range(stages) if 0 <= i + step < stages]
    return sharding.locally(lambda a: jax.lax.ppermute(a, STAGE, pairs), (_place(a),), _place(a))(a)


def _chosen(stage: int, a: jax.Array, b: jax.Array) -> jax.Array:
    """At one stage what it holds of the first array, at all others of the second; a backward pass needs no mask of all elements."""
    own = lambda a, b: jax.lax.select(jax.lax.axis_index(STAGE) == stage, a, b)  # noqa: E731
    return sharding.locally(own, (_place(a), _place(a)), _place(a))(a, b)


def _divided(a: jax.Array, each: int) -> jax.Array:
    """Rows (B, ...) as microbatches (stages, each, rows of one, ...); none leaves its device."""
    batch, time = sharding.place("batch", a.shape[0]), _time(a.shape)
    places = PartitionSpec(batch, *time), PartitionSpec(STAGE, None, _rows(a.shape[0]), *time)
    return sharding.locally(lambda a: a.reshape(1, each, -1, *a.shape[1:]), places[:1], places[1])(a)


def _joined(a: jax.Array, time: tuple) -> jax.Array:
    """The inverse."""
    rows = a.shape[0] * a.shape[1] * a.shape[2]
    places = PartitionSpec(STAGE, None, _rows(a.shape[2]), *time), PartitionSpec(sharding.place("batch", rows), *time)
    return sharding.locally(lambda a: a.reshape(-1, *a.shape[3:]), places[:1], places[1])(a)


def _place(a: jax.Array) -> PartitionSpec:
    """Of a microbatch for each stage."""
    return PartitionSpec(STAGE, _rows(a.shape[1]), *_time(a.shape[1:]))


def _rows(rows: int) -> tuple[str, ...]:
    """Where rows of a microbatch stand."""
    with sharding.in_stage():
        return sharding.place("batch", rows)


def _time(shape: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """Where the tokens of rows (B, T) or (B, T, D) stand; of other arrays only rows are divided."""
    return (sharding.place("time", shape[1]),) if len(shape) in (2, 3) else ()
