"""Products of rows with the matrix of the expert they belong to.

Rows come in one of three layouts (`Groups`): as many slots for every expert, in blocks of rows of one expert each, or sorted by
expert without a gap.

Blocks are multiplied one after another in a loop that ends after the last one in use, forward and backward. A product of all blocks
at once would need a copy of its expert's matrix for each, and the sum of as many gradients, and was slower on CPU.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from taxonomy import sharding

Place = tuple[str, ...]


@struct.dataclass
class Groups:
    """Which of `count` experts computes a row.

    Without arrays rows are (E, M, D), M slots of every expert. of_G: rows are (G, M, D) in blocks, and block g is of expert
    of_G[g]; only the first used_1 blocks are in use, and M is `block`. sizes_E: rows are (N, D), those of expert 0 first,
    sizes_E[e] of expert e; rows beyond their sum are nobody's.
    On a mesh, rows in blocks or sorted, and these arrays, are each device's own along their first dimension, which stands at `rows`
    (see `sharding.place`); they belong to the experts of that device, which stand at `experts`.
    """

    count: int = struct.field(pytree_node=False)
    of_G: jax.Array | None = None
    used_1: jax.Array | None = None
    sizes_E: jax.Array | None = None
    block: int | None = struct.field(pytree_node=False, default=None)
    rows: Place = struct.field(pytree_node=False, default=())
    experts: Place = struct.field(pytree_node=False, default=())

    @property
    def even(self) -> bool:
        """Whether every expert has as many slots."""
        return self.of_G is None and self.sizes_E is None


def multiply(x: jax.Array, kernel_EDF: jax.Array, groups: Groups, axes: tuple[str, str]) -> jax.Array:
    """Every row times its expert's matrix, in the layout of the rows and their dtype. axes: logical ones of the matrix."""
    kernel_EDF = kernel_EDF.astype(x.dtype)
    if groups.even:
        return x @ kernel_EDF
    inputs, outputs = _features(kernel_EDF.shape[1:], axes)
    every = {*groups.rows, *inputs, *outputs}

    def local(x, kernel_EDF, groups):
        # Gradients are summed over the devices that have an array in common.
        x = _apart(x, every.difference(groups.rows, inputs))
        kernel_EDF = _apart(kernel_EDF, every.difference(groups.experts, inputs, outputs))
        if groups.sizes_E is not None:
            y = jax.lax.ragged_dot(x, kernel_EDF, groups.sizes_E)
        else:
            y = _in_blocks(x, kernel_EDF, groups.of_G, groups.used_1[0])
        return jax.lax.psum(y, inputs) if inputs else y

    middle = (None,) * (x.ndim - 2)
    specs = PartitionSpec(groups.rows, *middle, inputs), PartitionSpec(groups.experts, inputs, outputs), PartitionSpec(groups.rows)
    return sharding.locally(local, specs, PartitionSpec(groups.rows, *middle, outputs))(x, kernel_EDF, groups)


def add(x: jax.Array, bias_EF: jax.Array, groups: Groups, axis: str) -> jax.Array:
    """Every row plus its expert's vector. axis: the logical one of its features."""
    bias_EF = bias_EF.astype(x.dtype)
    if groups.even:
        return x + bias_EF[:, None]
    (features,) = _features(bias_EF.shape[1:], (axis,))

    def local(x, bias_EF, groups):
        if groups.sizes_E is None:
            return x + bias_EF[groups.of_G][:, None]
        ends_E = jnp.cumsum(groups.sizes_E)
        of_N = jnp.searchsorted(ends_E, jnp.arange(x.shape[0]), side="right").clip(max=ends_E.size - 1)
        return x + bias_EF[of_N]

    rows = PartitionSpec(groups.rows, *(None,) * (x.ndim - 2), features)
    specs = rows, PartitionSpec(groups.experts, features), PartitionSpec(groups.rows)
    return sharding.locally(local, specs, rows)(x, bias_EF, groups)


def _features(shape: tuple[int, ...], axes: tuple[str, ...]) -> list[Place]:
    """Where a parameter's features stand while rows are computed: gathered from the axes that rows stand over."""
    return [sharding.place(name, size, gathered=sharding.RULES["batch"]) for name, size in zip(axes, shape, strict=True)]


def in_blocks_reference(x_GMD: jax.Array, kernel_EDF: jax.Array, of_G: jax.Array, used: jax.Array) -> jax.Array:
    """What `_in_blocks` computes, all at once."""
    used_G = jnp.arange(of_G.size) < used
    return jnp.where(used_G[:, None, None], x_GMD @ kernel_EDF[of_G], 0)


@jax.custom_vjp
def _in_blocks(x_GMD: jax.Array, kernel_EDF: jax.Array, of_G: jax.Array, used: jax.Array) -> jax.Array:
    """The first `used` blocks times their matrices, zeros beyond."""

    def block(g, y_GMF):
        return _put(y_GMF, x_GMD[g] @ kernel_EDF[of_G[g]], g)

    y_GMF = jnp.zeros_like(x_GMD, shape=(*x_GMD.shape[:2], kernel_EDF.shape[2]))
    return jax.lax.fori_loop(0, used, block, y_GMF)


def _forward(*inputs: jax.Array):
    return _in_blocks(*inputs), inputs


def _backward(inputs: tuple[jax.Array, ...], dy_GMF: jax.Array):
    x_GMD, kernel_EDF, of_G, used = inputs

    def block(g, gradients):
        dx_GMD, dkernel_EDF = gradients
        e, dy_MF = of_G[g], dy_GMF[g]
        dx_GMD = _put(dx_GMD, dy_MF @ kernel_EDF[e].T, g)
        dkernel_DF = jnp.matmul(x_GMD[g].T, dy_MF, preferred_element_type=jnp.float32)
        return dx_GMD, _put(dkernel_EDF, dkernel_EDF[e] + dkernel_DF, e)

    start = jnp.zeros_like(x_GMD), jnp.zeros_like(kernel_EDF, jnp.float32)
    dx_GMD, dkernel_EDF = jax.lax.fori_loop(0, used, block, start)
    return dx_GMD, dkernel_EDF.astype(kernel_EDF.dtype), None, None


_in_blocks.defvjp(_forward, _backward)


def _put(whole: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(whole, part, i, 0)


def _apart(x: jax.Array, axes: Iterable[str]) -> jax.Array:
    """The same on every device so far, marked as each one's own along mesh axes."""
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x
