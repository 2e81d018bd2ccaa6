"""Dilated attention: its plain form against the paper's formulas, and the gathered form against the plain one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.ops import attention
from taxonomy.ops.attention import Keys, Scores

WIDTH, SCALE = 8, 0.6


def mask_of(segments, rates, heads):
    return registry.create("mask", f"dilated(segments={segments}, rates={rates}, heads={heads})", "mask")


def arrays(time: int, heads: int, groups: int, batch: int = 2):
    generator = np.random.default_rng(time)
    draw = lambda n: jnp.asarray(generator.standard_normal((batch, time, n, WIDTH)), jnp.float32)  # noqa: E731
    return draw(heads), draw(groups), draw(groups)


def coordinates(time: int, lengths, batch: int = 2):
    """Documents of these lengths, over and over, another order in every row; one document without lengths."""
    if not lengths:
        return jnp.broadcast_to(jnp.arange(time), (batch, time)), None
    positions, segments = np.zeros((2, batch, time), np.int32)
    for row in range(batch):
        turn = [*lengths[row % len(lengths) :], *lengths[: row % len(lengths)]]
        cut = np.concatenate([np.full(n, i + 1) for i, n in enumerate(turn * time)][:time])[:time]
        segments[row] = cut
        positions[row] = np.arange(time) - np.searchsorted(cut, cut)
    return jnp.asarray(positions), jnp.asarray(segments)


def attend(q, k, v, positions, segments, mask, implementation, sinks=None):
    keys = Keys(k.swapaxes(1, 2), v.swapaxes(1, 2), positions, segments, True)
    return attention.attend(q, positions, segments, keys, Scores(mask, SCALE, sinks_H=sinks), implementation)


def definition(q, k, v, mask, sinks=None) -> np.ndarray:
    """Ding et al. 2023, eqs. 4 to 10: sparse segments, dense causal attention inside, and their mixture by denominators.

    The whole has one sink a head.
    """
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    batch, time, heads, _ = q.shape
    total, weight = np.zeros(q.shape), np.zeros((batch, time, heads, 1))
    for length, rate in zip(mask.segments, mask.rates, strict=True):
        for b, head, start in np.ndindex(batch, heads, -(-time // length)):
            group = head // (heads // k.shape[2])
            rows = np.arange(start * length + head % rate, min((start + 1) * length, time), rate)
            logits = q[b, rows, head] @ k[b, rows, group].T * SCALE
            exponents = np.where(np.tri(len(rows)), np.exp(logits), 0)
            denominator = exponents.sum(1, keepdims=True)
            output = exponents / np.maximum(denominator, 1e-30) @ v[b, rows, group]
            total[b, rows, head] += denominator * output
            weight[b, rows, head] += denominator
    return total / (weight + (0.0 if sinks is None else np.exp(sinks)[:, None]))


SHAPES = [
    # segments, rates, heads, heads of keys, time
    ((8,), (1,), 2, 2, 20),
    ((8, 16), (1, 2), 2, 1, 45),
    ((4, 16, 64), (1, 2, 4), 6, 3, 70),
    ((16, 10, 32), (3, 1, 5), 4, 4, 70),
    ((16, 32, 128), (1, 2, 6), 3, 3, 300),
]


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize(("segments", "rates", "heads", "groups", "time"), SHAPES)
def test_it_is_the_definition(segments, rates, heads, groups, time, implementation):
    mask, qkv = mask_of(segments, rates, heads), arrays(time, heads, groups)
    found = jax.jit(attend, static_argnums=(5, 6))(*qkv, *coordinates(time, ()), mask, implementation)
    np.testing.assert_allclose(found, definition(*qkv, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_all_segments_have_one_sink(implementation):
    mask, qkv, sinks = mask_of((4, 16, 64), (1, 2, 4), 6), arrays(70, 6, 3), np.linspace(-1, 3, 6)
    found = jax.jit(attend, static_argnums=(5, 6))(*qkv, *coordinates(70, ()), mask, implementation, jnp.asarray(sinks))
    np.testing.assert_allclose(found, definition(*qkv, mask, sinks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [(), (40, 7, 130), (1, 2), (90, 1, 1, 1)], ids=str)
def test_gathering_gives_the_plain_form_and_its_gradients(lengths):
    """Also where so many short documents keep their first token that the usual room does not do."""
    time, mask = 520, mask_of((16, 64, 128), (1, 4, 6), 6)
    qkv, where = arrays(time, 6, 6), coordinates(time, lengths)
    direction = arrays(time + 1, 6, 6)[0][:, :time]

    @functools.partial(jax.jit, static_argnums=0)
    def both(implementation, *qkv):
        y, pull = jax.vjp(lambda *qkv: attend(*qkv, *where, mask, implementation), *qkv)
        return y, *pull(direction)

    for one, other in zip(both("chunked", *qkv), both("reference", *qkv), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def products(jaxpr) -> int:
    """Multiplications of all products of a program; of branches those of the one for rows that are not crowded."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "cond":
            total += products(equation.params["branches"][-1].jaxpr)
        else:
            inner = (v.jaxpr for v in equation.params.values() if isinstance(v, core.ClosedJaxpr))
            total += sum(map(products, inner))
    return total


def test_the_work_grows_with_the_length():
    mask = mask_of((64, 256), (1, 4), 4)

    def work(time: int) -> float:
        qkv = (jax.ShapeDtypeStruct((1, time, 4, WIDTH), jnp.float32),) * 3
        return products(jax.make_jaxpr(lambda *qkv: attend(*qkv, *coordinates(time, (), 1), mask, "chunked"))(*qkv).jaxpr)

    assert work(16384) == pytest.approx(2 * work(8192), rel=0.05)
    # Of the 32 to 64 keys that a token sees: windows of 64 for all tokens and again for a quarter, twice as large in chunks.
    assert work(16384) < 16384 * 4 * 2 * WIDTH * 64 * 2 * 1.6


def test_what_is_counted_is_what_is_seen():
    for segments, rates, heads, _, time in SHAPES:
        mask, places = mask_of(segments, rates, heads), np.arange(time)[None]
        times = np.asarray(mask.times(places, places))
        assert mask.mean_span(time) == pytest.approx(times.sum() / heads / time)
        assert not times[:, :, ~np.asarray(mask.allowed(places[0][:, None], places))].any()
        assert (np.diagonal(times, axis1=2, axis2=3) > 0).all()


@pytest.mark.parametrize(
    ("segments", "rates", "said"),
    [("(8, 16)", "(1,)", "must be as many"), ("(8, 16)", "(2, 4)", "must have a 1"), ("(8, 0)", "(1, 1)", "at least 1")],
)
def test_impossible_masks(segments, rates, said):
    with pytest.raises(UserError, match=said):
        mask_of(segments, rates, 2)
