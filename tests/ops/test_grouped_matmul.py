"""Rows times their expert's matrix in all layouts of rows, and tokens to slots and back, against plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.ops import dispatch, grouped_matmul, layouts
from taxonomy.ops.grouped_matmul import Groups

BLOCKS, BLOCK, INPUTS, OUTPUTS, EXPERTS = 7, 4, 6, 5, 4
# Expert 1 has no block, and the last two are in use by nobody.
OF, USED = jnp.array([0, 0, 2, 3, 3, 3, 3]), jnp.array([5])
GENERATOR = np.random.default_rng(0)
KERNEL = jnp.asarray(GENERATOR.standard_normal((EXPERTS, INPUTS, OUTPUTS)).astype(np.float32))
BIAS = jnp.asarray(GENERATOR.standard_normal((EXPERTS, OUTPUTS)).astype(np.float32))
# The shapes of rows, how they are grouped, and the expert of each row; -1 is nobody.
LAYOUTS = {
    "slots": (((EXPERTS, 3),), Groups(EXPERTS), np.repeat(np.arange(EXPERTS), 3)),
    "blocks": (
        ((EXPERTS, 3), (5, 2)),
        Groups(EXPERTS, of_G=jnp.array([0, 2, 2, 3, 3]), used_1=jnp.array([5]), block=2),
        np.r_[np.repeat(np.arange(EXPERTS), 3), np.repeat([0, 2, 2, 3, 3], 2)],
    ),
    "ragged": (((9,),), Groups(EXPERTS, sizes_E=jnp.array([3, 0, 4, 0])), np.array([0, 0, 0, 2, 2, 2, 2, -1, -1])),
}


def rows_of(x, shapes):
    """Rows (N, D), one after another, in these shapes: an array, or a pair."""
    parts = jnp.split(x, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    parts = tuple(part.reshape(*shape, x.shape[-1]) for part, shape in zip(parts, shapes, strict=True))
    return parts if len(parts) > 1 else parts[0]


def flat(rows):
    return jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in jax.tree.leaves(rows)])


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_in_a_loop_are_all_at_once(dtype):
    x, kernel = jnp.asarray(random(BLOCKS, BLOCK, INPUTS), dtype), random(EXPERTS, INPUTS, OUTPUTS, seed=1)
    none = jnp.zeros((EXPERTS, 0, INPUTS), dtype)
    groups = Groups(EXPERTS, of_G=OF, used_1=USED, block=BLOCK)

    def loop(x, kernel):
        _, y = grouped_matmul.multiply((none, x), kernel, groups, ("embed", "mlp"))
        return jnp.sin(y.astype(jnp.float32)).sum()

    def plain(x, kernel):
        return jnp.sin(grouped_matmul.in_blocks_reference(x.astype(jnp.float32), kernel, OF, USED[0])).sum()

    found, expected = (jax.value_and_grad(f, argnums=(0, 1))(x, kernel) for f in (loop, plain))
    assert found[1][0].dtype == dtype and not found[1][0][USED[0] :].any() and not found[1][1][1].any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close(dtype)), found, expected)


def close(dtype):
    return dict(rtol=1e-5, atol=1e-5) if dtype == jnp.float32 else dict(rtol=0.05, atol=0.05)


@pytest.mark.parametrize("choices", [2, None])
@pytest.mark.parametrize(("weigh", "sizes"), [(False, (8,)), (True, (8,)), (False, (3, 5)), (True, (6, 2))])
def test_tokens_go_to_slots_and_back(choices, weigh, sizes):
    """Against a loop over assignments, one of which has no slot; gradients too."""
    time, size = 3, 8
    tokens, slots = np.array([[0, 0, 1, 1, 2, 2]]), np.array([[5, 0, 2, size, 7, 3]])
    weights, x = random(1, 6, seed=2), random(1, time, INPUTS)
    factor = random(size, INPUTS, seed=3)

    def ours(x, weights):
        assignments = dispatch.Assignments(jnp.asarray(tokens), jnp.zeros((1, 6), int), weights, jnp.ones((1, 6), bool), choices)
        held = dispatch.Slots(assignments, jnp.asarray(slots), sizes)
        parts = held.gather(x, weigh)
        factors = jnp.split(factor, [sizes[0]]) if len(sizes) > 1 else [factor]
        scaled = tuple(part * one for part, one in zip(parts, factors, strict=True))
        return jnp.concatenate(parts, 1), held.scatter(scaled, time, not weigh)

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
    shapes, groups, experts_N = LAYOUTS[layout]
    x = GENERATOR.standard_normal((experts_N.size, INPUTS)).astype(np.float32)

    def layer(x, kernel, bias):
        y = grouped_matmul.multiply(rows_of(x, shapes), kernel, groups, ("embed", "mlp"))
        return jnp.where(experts_N[:, None] >= 0, flat(grouped_matmul.add(y, bias, groups, "mlp")), 0.0)

    def loop(x, kernel, bias):
        rows = zip(x, experts_N, strict=True)
        return jnp.stack([row @ kernel[e] + bias[e] if e >= 0 else jnp.zeros(OUTPUTS) for row, e in rows])

    of = lambda function: jax.jit(jax.value_and_grad(lambda *a: jnp.sin(function(*a)).sum(), argnums=(0, 1, 2)))  # noqa: E731
    x = jnp.asarray(x)
    found, expected = of(layer)(x, KERNEL, BIAS), of(loop)(x, KERNEL, BIAS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    np.testing.assert_allclose(layer(x, KERNEL, BIAS), loop(x, KERNEL, BIAS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_keep_the_dtype_of_rows(layout):
    shapes, groups, experts_N = LAYOUTS[layout]
    x = rows_of(jnp.ones((experts_N.size, INPUTS), jnp.bfloat16), shapes)
    y = grouped_matmul.add(
        grouped_matmul.multiply(x, jnp.asarray(KERNEL), groups, ("embed", "mlp")), jnp.asarray(BIAS), groups, "mlp"
    )
    assert [(part.shape, part.dtype) for part in jax.tree.leaves(y)] == [((*shape, OUTPUTS), jnp.bfloat16) for shape in shapes]


@pytest.mark.parametrize("experts", [1, 3, 64])
@pytest.mark.parametrize("time", [1, 5, 200])
@pytest.mark.parametrize("implementation", ["blocks", "ragged"])
def test_everyone_has_a_slot_among_those_of_the_expert(experts, time, implementation):
    """From a single token on; padding has none, and blocks beyond those in use are empty."""
    generator = np.random.default_rng(time)
    choice, live = generator.integers(0, experts, (2, time, 2)), generator.random((2, time, 2)) < 0.8
    layout = layouts.dropless(dispatch.by_token(choice, np.ones_like(choice, np.float32), live), experts, time, implementation)
    slots, groups = layout.slots.slots_BA[0], layout.groups
    choice, live = choice.reshape(-1), live.reshape(-1)
    assert layout.dropped() == 0 and len(set(slots[live].tolist())) == live.sum() and (slots[~live] == layout.slots.size).all()
    if implementation == "ragged":
        of_slot = np.repeat(np.arange(experts), groups.sizes_E)
    else:
        even = layout.slots.sizes[0] // experts
        of_slot = np.r_[np.repeat(np.arange(experts), even), np.repeat(groups.of_G[: groups.used_1[0]], groups.block)]
        counts = np.bincount(choice[live], minlength=experts)
        assert groups.used_1[0] == sum(-(-max(count - even, 0) // groups.block) for count in counts)
    np.testing.assert_array_equal(of_slot[slots[live]], choice[live])
