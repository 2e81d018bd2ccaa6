"""Products of rows with the matrix of the expert they belong to.

Rows come in one of three layouts (`Groups`): as many slots for every expert, in blocks of rows of one expert each, or sorted by
expert without a gap.
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Groups:
    """Which of `count` experts computes a row.

    Without arrays rows are (E, M, D), M slots of every expert. of_G: rows are (G, M, D) in blocks, and block g is of expert
    of_G[g]. sizes_E: rows are (N, D), those of expert 0 first, sizes_E[e] of expert e; rows beyond their sum are nobody's.
    """

    count: int = struct.field(pytree_node=False)
    of_G: jax.Array | None = None
    sizes_E: jax.Array | None = None


def multiply(x: jax.Array, kernel_EDF: jax.Array, groups: Groups) -> jax.Array:
    """Every row times its expert's matrix, in the layout of the rows and their dtype."""
    kernel_EDF = kernel_EDF.astype(x.dtype)
    if groups.sizes_E is not None:
        return jax.lax.ragged_dot(x, kernel_EDF, groups.sizes_E)
    return x @ (kernel_EDF if groups.of_G is None else kernel_EDF[groups.of_G])


def add(x: jax.Array, bias_EF: jax.Array, groups: Groups) -> jax.Array:
    """Every row plus its expert's vector."""
    bias_EF = bias_EF.astype(x.dtype)
    if groups.sizes_E is not None:
        ends_E = jnp.cumsum(groups.sizes_E)
        of_N = jnp.searchsorted(ends_E, jnp.arange(x.shape[0]), side="right").clip(max=groups.count - 1)
        return x + bias_EF[of_N]
    return x + (bias_EF if groups.of_G is None else bias_EF[groups.of_G])[:, None]
