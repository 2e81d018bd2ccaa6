"""Slots and blocks of what exceeds them, against a row after another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.ops import overflow
from taxonomy.ops.overflow import Overflow

EXPERTS, SLOTS, TOKENS, D, F = 4, 3, 5, 6, 7
# Nine assignments: expert 1 has no block, one block has a gap, the last two are in use by nobody.
OVERFLOW = Overflow(
    of_G=jnp.array([0, 2, 2, 3, 3, 0]),
    used_1=jnp.array([4]),
    rows_GM=jnp.array([[0, 3], [1, 2], [8, 9], [5, 9], [4, 6], [7, 9]]),
    tokens_A=jnp.array([0, 1, 1, 0, 2, 3, 4, 4, 2]),
)


def experts(params, rows_EMD):
    hidden_EMF = jnp.sin(jnp.einsum("emd,edf->emf", rows_EMD, params["up"].astype(rows_EMD.dtype)))
    return jnp.einsum("emf,efd->emd", hidden_EMF, params["down"].astype(rows_EMD.dtype))


def drawn():
    generator = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(generator.standard_normal(shape, np.float32))  # noqa: E731
    params = {"up": draw(EXPERTS, D, F), "down": draw(EXPERTS, F, D)}
    return params, draw(EXPERTS, SLOTS, D), draw(TOKENS, D), draw(OVERFLOW.tokens_A.size)


@pytest.mark.parametrize("weigh_input", [False, True])
def test_blocks_in_a_loop_are_a_row_after_another(weigh_input):
    """Values, and gradients for parameters, slots, tokens and weights."""

    def of(function):
        def scalar(*inputs):
            slots_EMD, y_ND = function(experts, weigh_input, *inputs, OVERFLOW)
            return jnp.sum(slots_EMD**2) + jnp.sum(jnp.sin(y_ND)), (slots_EMD, y_ND)

        return jax.value_and_grad(scalar, argnums=(0, 1, 2, 3), has_aux=True)

    found, expected = jax.jit(of(overflow.computed))(*drawn()), of(overflow.computed_reference)(*drawn())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert not found[1][3][jnp.array([4, 6, 7])].any()  # the assignments of blocks that are not in use


def test_rows_keep_their_dtype_and_parameters_theirs():
    params, slots_EMD, x_ND, weights_A = drawn()
    rows = slots_EMD.astype(jnp.bfloat16), x_ND.astype(jnp.bfloat16)
    function = functools.partial(overflow.computed, experts, False)
    (y_EMD, y_ND), pull = jax.vjp(lambda *inputs: function(*inputs, OVERFLOW), params, *rows, weights_A)
    assert y_EMD.dtype == y_ND.dtype == jnp.bfloat16
    gradients = pull((jnp.ones_like(y_EMD), jnp.ones_like(y_ND)))
    assert jax.tree.map(lambda a: a.dtype, gradients) == jax.tree.map(lambda a: a.dtype, (params, *rows, weights_A))
