"""Products of rows with the matrix of the expert they belong to.

Rows come in one of three layouts (`Groups`): as many slots for every expert; the same with blocks of rows of one expert each for
what exceeds them; or sorted by expert without a gap.

Slots are one batched product, which reads every matrix where it stands. Blocks are multiplied one after another in a loop that ends
after the last one in use, forward and backward; it copies the matrix for each, and adds up their gradients, so few should be used.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from taxonomy import sharding

Place = tuple[str, ...]
# An array of rows, or slots and blocks of them.
Rows = Any

# Up to so many rows at once, products on CPU are faster with the rows as columns: with 64 rows up to 2.8 times.
_FEW = 128


@struct.dataclass
class Groups:
    """Which of `count` experts computes a row.

    Without arrays rows are (E, M, D), M slots of every expert. of_G: rows are a pair, (E, M, D) and (G, block, D) in blocks, and
    block g is of expert of_G[g]; only the first used_1 blocks are in use. sizes_E: rows are (N, D), those of expert 0 first,
    sizes_E[e] of expert e; rows beyond their sum are nobody's.
    On a mesh, rows of a pair or sorted, and these arrays, are each device's own along their first dimension, which stands at `rows`
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
        """Whether every expert has as many slots, and no more."""
        return self.of_G is None and self.sizes_E is None


def multiply(x: Rows, kernel_EDF: jax.Array, groups: Groups, axes: tuple[str, str]) -> Rows:
    """Every row times its expert's matrix, in the layout of the rows and their dtype. axes: logical ones of the matrix."""
    first = jax.tree.leaves(x)[0]
    kernel_EDF = kernel_EDF.astype(first.dtype)
    if groups.even:
        return _times(x, kernel_EDF)
    inputs, outputs = _features(kernel_EDF.shape[1:], axes)
    every = {*groups.rows, *inputs, *outputs}

    def local(x, kernel_EDF, groups):
        # Gradients are summed over the devices that have an array in common.
        x = jax.tree.map(lambda a: _apart(a, every.difference(groups.rows, inputs)), x)
        kernel_EDF = _apart(kernel_EDF, every.difference(groups.experts, inputs, outputs))
        if groups.sizes_E is not None:
            y = jax.lax.ragged_dot(x, kernel_EDF, groups.sizes_E)
        else:
            y = _in_both(*x, kernel_EDF, groups.of_G, groups.used_1[0])
        return jax.lax.psum(y, inputs) if inputs else y

    middle = (None,) * (first.ndim - 2)
    specs = PartitionSpec(groups.rows, *middle, inputs), PartitionSpec(groups.experts, inputs, outputs), PartitionSpec(groups.rows)
    return sharding.locally(local, specs, PartitionSpec(groups.rows, *middle, outputs))(x, kernel_EDF, groups)


def add(x: Rows, bias_EF: jax.Array, groups: Groups, axis: str) -> Rows:
    """Every row plus its expert's vector. axis: the logical one of its features."""
    first = jax.tree.leaves(x)[0]
    bias_EF = bias_EF.astype(first.dtype)
    if groups.even:
        return x + bias_EF[:, None]
    (features,) = _features(bias_EF.shape[1:], (axis,))

    def local(x, bias_EF, groups):
        if groups.sizes_E is None:
            x_EMF, x_GMF = x
            return x_EMF + bias_EF[:, None], x_GMF + bias_EF[groups.of_G][:, None]
        ends_E = jnp.cumsum(groups.sizes_E)
        of_N = jnp.searchsorted(ends_E, jnp.arange(x.shape[0]), side="right").clip(max=ends_E.size - 1)
        return x + bias_EF[of_N]

    rows = PartitionSpec(groups.rows, *(None,) * (first.ndim - 2), features)
    specs = rows, PartitionSpec(groups.experts, features), PartitionSpec(groups.rows)
    return sharding.locally(local, specs, rows)(x, bias_EF, groups)


def _features(shape: tuple[int, ...], axes: tuple[str, ...]) -> list[Place]:
    """Where a parameter's features stand while rows are computed: gathered from the axes that rows stand over."""
    return [sharding.place(name, size, gathered=sharding.RULES["batch"]) for name, size in zip(axes, shape, strict=True)]


def in_blocks_reference(x_GMD: jax.Array, kernel_EDF: jax.Array, of_G: jax.Array, used: jax.Array) -> jax.Array:
    """What blocks are multiplied to, all at once."""
    used_G = jnp.arange(of_G.size) < used
    return jnp.where(used_G[:, None, None], x_GMD @ kernel_EDF[of_G], 0)


@jax.custom_vjp
def _in_both(x_EMD: jax.Array, x_GMD: jax.Array, kernel_EDF: jax.Array, of_G: jax.Array, used: jax.Array):
    """Slots times their matrices, and the first `used` blocks times theirs, zeros beyond."""

    def block(g, y_GMF):
        return _put(y_GMF, _times(x_GMD[g], kernel_EDF[of_G[g]]), g)

    y_GMF = jnp.zeros_like(x_GMD, shape=(*x_GMD.shape[:2], kernel_EDF.shape[2]))
    return _times(x_EMD, kernel_EDF), jax.lax.fori_loop(0, used, block, y_GMF)


def _in_both_forward(*inputs: jax.Array):
    return _in_both(*inputs), inputs


def _in_both_backward(inputs: tuple[jax.Array, ...], dy: tuple[jax.Array, jax.Array]):
    x_EMD, x_GMD, kernel_EDF, of_G, used = inputs
    dy_EMF, dy_GMF = dy

    def block(g, gradients):
        dx_GMD, dkernel_EDF = gradients
        e, dy_MF = of_G[g], dy_GMF[g]
        dx_GMD = _put(dx_GMD, _times_transpose(dy_MF, kernel_EDF[e]), g)
        return dx_GMD, _put(dkernel_EDF, dkernel_EDF[e] + _outer(x_GMD[g], dy_MF), e)

    start = jnp.zeros_like(x_GMD), _outer(x_EMD, dy_EMF)
    dx_GMD, dkernel_EDF = jax.lax.fori_loop(0, used, block, start)
    return _times_transpose(dy_EMF, kernel_EDF), dx_GMD, dkernel_EDF.astype(kernel_EDF.dtype), None, None


_in_both.defvjp(_in_both_forward, _in_both_backward)


def _times(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (..., M, D) times (..., D, F)."""
    if not _as_columns(x):
        return x @ kernel
    return jnp.einsum("...dm,...df->...mf", _turned(x), kernel)


def _times_transpose(dy: jax.Array, kernel: jax.Array) -> jax.Array:
    """dy (..., M, F) times the transpose of (..., D, F)."""
    if not _as_columns(dy):
        return jnp.einsum("...mf,...df->...md", dy, kernel)
    return jax.lax.optimization_barrier(jnp.einsum("...df,...mf->...dm", kernel, dy)).swapaxes(-1, -2)


def _outer(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient for the kernel, in float32."""
    return jnp.einsum("...md,...mf->...df", x, dy, preferred_element_type=jnp.float32)


def _as_columns(x: jax.Array) -> bool:
    return jax.default_backend() == "cpu" and x.shape[-2] <= _FEW


def _turned(x: jax.Array) -> jax.Array:
    """Rows as columns, in memory too."""
    return jax.lax.optimization_barrier(x.swapaxes(-1, -2))


def _put(whole: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(whole, part, i, 0)


def _apart(x: jax.Array, axes: Iterable[str]) -> jax.Array:
    """The same on every device so far, marked as each one's own along mesh axes."""
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x
