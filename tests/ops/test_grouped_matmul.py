"""Products with the matrix of a row's expert, in all layouts of rows, against a loop over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.ops import grouped_matmul
from taxonomy.ops.grouped_matmul import Groups

EXPERTS, D, F = 4, 6, 5
GENERATOR = np.random.default_rng(0)
KERNEL = GENERATOR.standard_normal((EXPERTS, D, F)).astype(np.float32)
BIAS = GENERATOR.standard_normal((EXPERTS, F)).astype(np.float32)
# The shape of rows, how they are grouped, and the expert of each row; -1 is nobody.
LAYOUTS = {
    "slots": ((EXPERTS, 3), Groups(EXPERTS), np.repeat(np.arange(EXPERTS), 3)),
    "blocks": ((5, 2), Groups(EXPERTS, of_G=jnp.array([0, 2, 2, 3, 3])), np.repeat([0, 2, 2, 3, 3], 2)),
    "ragged": ((9,), Groups(EXPERTS, sizes_E=jnp.array([3, 0, 4, 0])), np.array([0, 0, 0, 2, 2, 2, 2, -1, -1])),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_row_meets_its_expert(layout):
    """Values and gradients."""
    shape, groups, experts_N = LAYOUTS[layout]
    x = GENERATOR.standard_normal((*shape, D)).astype(np.float32)
    real = (experts_N >= 0).reshape(shape)

    def layer(x, kernel, bias):
        y = grouped_matmul.add(grouped_matmul.multiply(x, kernel, groups), bias, groups)
        return jnp.where(real[..., None], y, 0.0)

    def loop(x, kernel, bias):
        rows = zip(x.reshape(-1, D), experts_N, strict=True)
        y = [row @ kernel[e] + bias[e] if e >= 0 else jnp.zeros(F) for row, e in rows]
        return jnp.stack(y).reshape(*shape, F)

    of = lambda function: jax.jit(jax.value_and_grad(lambda *a: jnp.sin(function(*a)).sum(), argnums=(0, 1, 2)))  # noqa: E731
    found, expected = of(layer)(x, KERNEL, BIAS), of(loop)(x, KERNEL, BIAS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    np.testing.assert_allclose(layer(x, KERNEL, BIAS), loop(x, KERNEL, BIAS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_keep_the_dtype_of_rows(layout):
    shape, groups, _ = LAYOUTS[layout]
    x = jnp.ones((*shape, D), jnp.bfloat16)
    y = grouped_matmul.add(grouped_matmul.multiply(x, jnp.asarray(KERNEL), groups), jnp.asarray(BIAS), groups)
    assert (y.shape, y.dtype) == ((*shape, F), jnp.bfloat16)
