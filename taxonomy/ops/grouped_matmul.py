"""Products of rows with the matrix of the expert they belong to.

Rows come in one of two layouts (`Groups`): as many slots for every expert, or sorted by expert without a gap. Slots are one batched
product, which reads every matrix where it stands.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from taxonomy import sharding

Place = tuple[str, ...]

# Up to so many rows at once, products on CPU are faster with the rows as columns: with 64 rows up to 2.8 times.
_FEW = 128


@struct.dataclass
class Groups:
    """Which of `count` experts computes a row.

    Without sizes_E rows are (E, M, D), M slots of every expert. With it they are (N, D), those of expert 0 first, sizes_E[e] of
    expert e; rows beyond their sum are nobody's. On a mesh these, and sizes_E, are each device's own along their first dimension,
    which stands at `rows` (see `sharding.place`); they belong to the experts of that device, which stand at `experts`.
    """

    count: int = struct.field(pytree_node=False)
    sizes_E: jax.Array | None = None
    rows: Place = struct.field(pytree_node=False, default=())
    experts: Place = struct.field(pytree_node=False, default=())


def multiply(x: jax.Array, kernel_EDF: jax.Array, groups: Groups, axes: tuple[str, str]) -> jax.Array:
    """Every row times its expert's matrix, in the layout of the rows and their dtype. axes: logical ones of the matrix."""
    kernel_EDF = kernel_EDF.astype(x.dtype)
    if groups.sizes_E is None:
        return _times(x, kernel_EDF)
    inputs, outputs = features(kernel_EDF.shape[1:], axes)
    every = {*groups.rows, *inputs, *outputs}

    def local(x_ND, kernel_EDF, sizes_E):
        x_ND = sharding.apart(x_ND, every, specs[0])
        kernel_EDF = sharding.apart(kernel_EDF, every, specs[1])
        y_NF = jax.lax.ragged_dot(x_ND, kernel_EDF, sizes_E)
        return jax.lax.psum(y_NF, inputs) if inputs else y_NF

    specs = PartitionSpec(groups.rows, inputs), PartitionSpec(groups.experts, inputs, outputs), PartitionSpec(groups.rows)
    return sharding.locally(local, specs, PartitionSpec(groups.rows, outputs))(x, kernel_EDF, groups.sizes_E)


def add(x: jax.Array, bias_EF: jax.Array, groups: Groups, axis: str) -> jax.Array:
    """Every row plus its expert's vector. axis: the logical one of its features."""
    bias_EF = bias_EF.astype(x.dtype)
    if groups.sizes_E is None:
        return x + bias_EF[:, None]
    (place,) = features(bias_EF.shape[1:], (axis,))

    def local(x_NF, bias_EF, sizes_E):
        ends_E = jnp.cumsum(sizes_E)
        of_N = jnp.searchsorted(ends_E, jnp.arange(x_NF.shape[0]), side="right").clip(max=ends_E.size - 1)
        return x_NF + bias_EF[of_N]

    specs = PartitionSpec(groups.rows, place), PartitionSpec(groups.experts, place), PartitionSpec(groups.rows)
    return sharding.locally(local, specs, PartitionSpec(groups.rows, place))(x, bias_EF, groups.sizes_E)


def features(shape: tuple[int, ...], axes: tuple[str, ...]) -> list[Place]:
    """Where a parameter's features stand while rows are computed: gathered from the axes that rows stand over."""
    return [sharding.place(name, size, gathered=sharding.RULES["batch"]) for name, size in zip(axes, shape, strict=True)]


@jax.custom_vjp
def _times(x_EMD: jax.Array, kernel_EDF: jax.Array) -> jax.Array:
    """Slots times their matrices. Its three products are in the order in which they are fastest."""
    if not _as_columns(x_EMD):
        return x_EMD @ kernel_EDF
    x_EDM = jax.lax.optimization_barrier(x_EMD.swapaxes(1, 2))  # in memory too
    return jnp.einsum("edm,edf->emf", x_EDM, kernel_EDF)


def _times_backward(inputs: tuple[jax.Array, jax.Array], dy_EMF: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_EMD, kernel_EDF = inputs
    dkernel_EDF = jnp.einsum("emd,emf->edf", x_EMD, dy_EMF, preferred_element_type=jnp.float32).astype(kernel_EDF.dtype)
    if not _as_columns(dy_EMF):
        return jnp.einsum("emf,edf->emd", dy_EMF, kernel_EDF), dkernel_EDF
    # The barrier keeps XLA from multiplying in the other order.
    return jax.lax.optimization_barrier(jnp.einsum("edf,emf->edm", kernel_EDF, dy_EMF)).swapaxes(1, 2), dkernel_EDF


_times.defvjp(lambda *inputs: (_times(*inputs), inputs), _times_backward)


def _as_columns(x: jax.Array) -> bool:
    return jax.default_backend() == "cpu" and x.shape[-2] <= _FEW
