"""Rows times their expert's matrix in all layouts of rows, and tokens to slots and back, against plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.ops import dispatch, grouped_matmul, layouts
from taxonomy.ops.grouped_matmul import Groups

INPUTS, OUTPUTS, EXPERTS = 6, 5, 4
GENERATOR = np.random.default_rng(0)
KERNEL = jnp.asarray(GENERATOR.standard_normal((EXPERTS, INPUTS, OUTPUTS)).astype(np.float32))
BIAS = jnp.asarray(GENERATOR.standard_normal((EXPERTS, OUTPUTS)).astype(np.float32))
# The shape of rows, how they are grouped, and the expert of each row; -1 is nobody.
LAYOUTS = {
    "slots": ((EXPERTS, 3), Groups(EXPERTS), np.repeat(np.arange(EXPERTS), 3)),
    "many slots": ((EXPERTS, 130), Groups(EXPERTS), np.repeat(np.arange(EXPERTS), 130)),
    "ragged": ((9,), Groups(EXPERTS, sizes_E=jnp.array([3, 0, 4, 0])), np.array([0, 0, 0, 2, 2, 2, 2, -1, -1])),
}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("choices", [2, None])
@pytest.mark.parametrize("weigh", [False, True])
def test_tokens_go_to_slots_and_back(choices, weigh):
    """Against a loop over assignments, one of which has no slot; gradients too."""
    time, size = 3, 8
    tokens, slots = np.array([[0, 0, 1, 1, 2, 2]]), np.array([[5, 0, 2, size, 7, 3]])
    weights, x = random(1, 6, seed=2), random(1, time, INPUTS)
    factor = random(size, INPUTS, seed=3)

    def ours(x, weights):
        assignments = dispatch.Assignments(jnp.asarray(tokens), jnp.zeros((1, 6), int), weights, jnp.ones((1, 6), bool), choices)
        held = dispatch.Slots(assignments, jnp.asarray(slots), size)
        rows = held.gather(x, weigh)
        return rows, held.scatter(rows * factor, time, not weigh)

    def plain(x, weights):
        rows, y = jnp.zeros((1, size, INPUTS)), jnp.zeros((1, time, INPUTS))
        for a, (token, slot) in enumerate(zip(tokens[0], slots[0], strict=True)):
            if slot < size:
                rows = rows.at[0, slot].set(x[0, token] * (weights[0, a] if weigh else 1))
                y = y.at[0, token].add(rows[0, slot] * factor[slot] * (1 if weigh else weights[0, a]))
        return rows, y

    for f, g in ((ours, plain), (gradient(ours), gradient(plain))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), f(x, weights), g(x, weights))


def gradient(function):
    return jax.grad(lambda *inputs: sum(jnp.sin(a).sum() for a in function(*inputs)), argnums=(0, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_row_meets_its_expert(layout):
    """Values and gradients."""
    shape, groups, experts_N = LAYOUTS[layout]
    x = GENERATOR.standard_normal((experts_N.size, INPUTS)).astype(np.float32)

    def layer(x, kernel, bias):
        y = grouped_matmul.multiply(x.reshape(*shape, INPUTS), kernel, groups, ("embed", "mlp"))
        return jnp.where(experts_N[:, None] >= 0, grouped_matmul.add(y, bias, groups, "mlp").reshape(-1, OUTPUTS), 0.0)

    def plain(x, kernel, bias):
        y = jnp.einsum("nd,ndf->nf", x, kernel[experts_N]) + bias[experts_N]
        return jnp.where(experts_N[:, None] >= 0, y, 0.0)

    of = lambda function: jax.jit(jax.value_and_grad(lambda *a: jnp.sin(function(*a)).sum(), argnums=(0, 1, 2)))  # noqa: E731
    x = jnp.asarray(x)
    found, expected = of(layer)(x, KERNEL, BIAS), of(plain)(x, KERNEL, BIAS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    np.testing.assert_allclose(layer(x, KERNEL, BIAS), plain(x, KERNEL, BIAS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_keep_the_dtype_of_rows(layout):
    shape, groups, _ = LAYOUTS[layout]
    x = jnp.ones((*shape, INPUTS), jnp.bfloat16)
    y = grouped_matmul.add(
        grouped_matmul.multiply(x, jnp.asarray(KERNEL), groups, ("embed", "mlp")), jnp.asarray(BIAS), groups, "mlp"
    )
    assert (y.shape, y.dtype) == ((*shape, OUTPUTS), jnp.bfloat16)


@pytest.mark.parametrize("experts", [1, 3, 64])
@pytest.mark.parametrize("time", [1, 5, 200])
@pytest.mark.parametrize("implementation", ["blocks", "ragged"])
def test_everyone_has_a_slot_among_those_of_the_expert(experts, time, implementation):
    """From a single token on, or a row of a block; padding has none, and blocks beyond those in use are empty."""
    generator = np.random.default_rng(time)
    choice, live = generator.integers(0, experts, (2, time, 2)), generator.random((2, time, 2)) < 0.8
    layout = layouts.dropless(dispatch.by_token(choice, np.ones_like(choice, np.float32), live), experts, time, implementation)
    size, slots = layout.slots.size, np.asarray(layout.slots.slots_BA[0])
    choice, live = choice.reshape(-1), live.reshape(-1)
    in_slots = slots < size
    assert layout.dropped() == 0 and len(set(slots[in_slots])) == in_slots.sum() and not in_slots[~live].any()
    if implementation == "ragged":
        of_slot = np.repeat(np.arange(experts), layout.groups.sizes_E)
        np.testing.assert_array_equal(in_slots, live)
    else:
        of_slot, overflow = np.repeat(np.arange(experts), size // experts), layout.overflow
        used, block = int(overflow.used_1[0]), overflow.rows_GM.shape[1]
        counts = np.bincount(choice[live], minlength=experts)
        assert used == sum(-(-max(count - size // experts, 0) // block) for count in counts)
        rows_GM = np.asarray(overflow.rows_GM)
        assert (rows_GM[used:] == choice.size).all()
        held = rows_GM[rows_GM < choice.size]
        assert sorted(held) == np.flatnonzero(live & ~in_slots).tolist()
        of_row = np.repeat(np.asarray(overflow.of_G), block).reshape(rows_GM.shape)
        np.testing.assert_array_equal(of_row[rows_GM < choice.size], choice[held])
    np.testing.assert_array_equal(of_slot[slots[in_slots]], choice[in_slots])
