"""From tokens to slots and back, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from taxonomy.ops import dispatch, layouts

ROWS, TIME, EXPERTS, D = 2, 40, 5, 3


def uneven(choices: int, time: int = TIME, rows: int = ROWS, seed: int = 0):
    """Distinct experts of every token, the first one often and the last one never, weights, and a part that is dead."""
    generator = np.random.default_rng(seed)
    liking = np.array([3.0, 1.0, 0.5, 0.0, -np.inf])
    order = np.argsort(-(liking + generator.gumbel(size=(rows, time, EXPERTS))), -1)
    weights = generator.uniform(0.1, 1, (rows, time, choices)).astype(np.float32)
    return order[..., :choices], weights, generator.uniform(size=(rows, time, choices)) < 0.8


def tokens(rows: int = ROWS, time: int = TIME) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, time, D)).astype(np.float32)


def of_expert(layout) -> np.ndarray:
    """The expert that computes each slot, as groups say; -1 for nobody."""
    groups, size = layout.groups, layout.slots.size
    if groups.sizes_E is not None:
        sizes = np.asarray(groups.sizes_E)
        return np.r_[np.repeat(np.arange(EXPERTS), sizes), [-1] * (size - sizes.sum())]
    return np.repeat(np.arange(EXPERTS), size // EXPERTS)


def by_slot(layout, rows) -> np.ndarray:
    """What experts get, (E, B C, D) with a capacity, as the slots (R, size, D) of independent rows."""
    if not isinstance(layout, layouts.WithCapacity):
        return np.asarray(rows)[None]
    capacity, d = layout.slots.size // EXPERTS, rows.shape[-1]
    return np.asarray(rows).reshape(EXPERTS, -1, capacity, d).swapaxes(0, 1).reshape(-1, layout.slots.size, d)


def by_expert(layout, y_RSD, like):
    """The inverse, in these shapes."""
    if isinstance(layout, layouts.WithCapacity):
        y_RSD = y_RSD.reshape(y_RSD.shape[0], EXPERTS, -1, y_RSD.shape[-1]).swapaxes(0, 1)
        return jnp.asarray(y_RSD.reshape(like.shape))
    return jnp.asarray(y_RSD[0])


def check(layout, x, kept) -> None:
    """Every kept assignment has a slot of its own at its expert, which holds its token; all others none."""
    assignments, size = layout.slots.assignments, layout.slots.size
    given = layout.gather(x, False)
    rows_RSD, weighed_RSD = by_slot(layout, given), by_slot(layout, layout.gather(x, True))
    experts_S, x_RTD = of_expert(layout), np.asarray(x).reshape(rows_RSD.shape[0], -1, D)
    y = np.random.default_rng(2).standard_normal(rows_RSD.shape).astype(np.float32)
    sums = {True: np.zeros_like(x_RTD), False: np.zeros_like(x_RTD)}
    for row in range(x_RTD.shape[0]):
        slots = np.asarray(layout.slots.slots_BA[row])
        assert len(set(slots[kept[row]])) == kept[row].sum() and np.all(slots[~kept[row]] == size)
        used = np.zeros(size, bool)
        for a in np.flatnonzero(kept[row]):
            slot, token, weight = slots[a], int(assignments.tokens_BA[row, a]), assignments.weights_BA[row, a]
            used[slot] = True
            assert experts_S[slot] == assignments.experts_BA[row, a]
            np.testing.assert_array_equal(rows_RSD[row, slot], x_RTD[row, token])
            np.testing.assert_array_equal(weighed_RSD[row, slot], x_RTD[row, token] * weight)
            sums[True][row, token] += weight * y[row, slot]
            sums[False][row, token] += y[row, slot]
        assert not rows_RSD[row, ~used].any() and not weighed_RSD[row, ~used].any()
    for weigh, expected in sums.items():
        found = layout.scatter(by_expert(layout, y, given), x, weigh)
        np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-5, atol=1e-6)
    assert int(layout.dropped()) == (np.asarray(assignments.live_BA) & ~kept).sum()


@pytest.mark.parametrize("choices_first", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("capacity", [1, 7, TIME])
def test_a_capacity_takes_what_comes_first(choices, choices_first, capacity):
    experts, weights, live = uneven(choices)
    assignments = dispatch.by_token(*map(jnp.asarray, (experts, weights, live)), choices_first)
    kept = np.zeros((ROWS, TIME * choices), bool)
    for row in range(ROWS):
        taken, place = [0] * EXPERTS, 0
        pairs = [(t, c) for c in range(choices) for t in range(TIME)] if choices_first else np.ndindex(TIME, choices)
        for place, (t, c) in enumerate(pairs):
            assert (assignments.tokens_BA[row, place], assignments.experts_BA[row, place]) == (t, experts[row, t, c])
            assert assignments.weights_BA[row, place] == weights[row, t, c]
            if live[row, t, c] and taken[experts[row, t, c]] < capacity:
                taken[experts[row, t, c]] += 1
                kept[row, place] = True
    layout = layouts.with_capacity(assignments, EXPERTS, capacity)
    assert layout.slots.size == EXPERTS * capacity
    check(layout, jnp.asarray(tokens()), kept)
    assert (layout.dropped() == 0) == (capacity == TIME)


@pytest.mark.parametrize("dead", ["some", "all", "none"])
def test_sorted_all_have_a_slot(dead):
    """Also when assignments come in another order."""
    experts, weights, live = uneven(2)
    for many in orders(experts, weights, made(live, dead)):
        layout = layouts.dropless(many, EXPERTS, TIME, "ragged")
        one = layout.slots.assignments
        check(layout, jnp.asarray(tokens()), np.asarray(one.live_BA))
        np.testing.assert_array_equal(one.tokens_BA[0, -1] - many.tokens_BA[-1, -1], TIME * (ROWS - 1))


def orders(experts, weights, live):
    """The same assignments in both orders."""
    return [dispatch.by_token(*map(jnp.asarray, (experts, weights, live)), choices_first) for choices_first in (False, True)]


def made(live, dead):
    return {"some": live, "all": np.zeros_like(live), "none": np.ones_like(live)}[dead]


def check_overflow(layout, x_BTD, experts, weights, live) -> None:
    """Every token gets what its experts make of it: here its square times a vector of the expert."""
    scales = np.random.default_rng(3).standard_normal((EXPERTS, D)).astype(np.float32)
    square = lambda params, rows_EMD: params["scale"][:, None] * rows_EMD**2  # noqa: E731
    for weigh_input in (False, True):
        compute = lambda x, p, w=weigh_input: layout.compute(square, p, {"scale": PartitionSpec()}, (), x, w)  # noqa: E731
        found = jax.jit(compute)(jnp.asarray(x_BTD), {"scale": jnp.asarray(scales)})
        weighed = np.where(live, weights ** (2 if weigh_input else 1), 0)
        expected = np.einsum("btc,btcd,btd->btd", weighed, scales[experts], x_BTD**2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert layout.dropped() == 0


@pytest.mark.parametrize("dead", ["some", "all", "none"])
def test_what_overflows_is_computed(dead):
    """In blocks of which some experts have none and others several; also when assignments come in another order."""
    experts, weights, live = uneven(2)
    live = made(live, dead)
    for many in orders(experts, weights, live):
        layout = layouts.dropless(many, EXPERTS, TIME, "blocks")
        check_overflow(layout, tokens(), experts, weights, live)
        if dead == "none":
            used = int(layout.overflow.used_1[0])
            assert np.bincount(np.asarray(layout.overflow.of_G)[:used], minlength=EXPERTS)[0] > 1


def test_blocks_fit_whatever_the_loads_are():
    """All to one expert, or to each as few over a whole block as makes the most blocks."""
    for counts in ([80, 0, 0, 0, 0], [0, 0, 0, 0, 80], [17, 17, 17, 17, 12], [1, 1, 1, 1, 76]):
        experts = np.repeat(np.arange(EXPERTS), counts)[None, :, None]
        arrays = experts, np.ones(experts.shape, np.float32), np.ones(experts.shape, bool)
        layout = layouts.dropless(dispatch.by_token(*map(jnp.asarray, arrays)), EXPERTS, 80, "blocks")
        check_overflow(layout, tokens(1, 80), *arrays)
