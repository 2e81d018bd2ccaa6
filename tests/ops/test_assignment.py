"""The auction, against the best assignment there is; shares, against what they have to fulfil."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from taxonomy.ops import assignment


@pytest.mark.parametrize("skew", [0.0, 3.0])
@pytest.mark.parametrize(("time", "experts"), [(64, 4), (61, 8), (5, 8), (9, 1)])
def test_the_auction_is_even_and_nearly_the_best(time, experts, skew):
    generator = np.random.default_rng(0)
    scores = (generator.standard_normal((3, time, experts)) + skew * generator.standard_normal(experts)).astype(np.float32)
    live = np.ones((3, time), bool)
    live[1] = generator.uniform(size=time) < 0.5
    live[2] = False
    found = np.asarray(jax.jit(assignment.balanced)(scores, live))
    assert found.min() >= 0 and found.max() < experts
    for row in range(2):
        tokens = np.flatnonzero(live[row])
        limit = -(-len(tokens) // experts)
        assert np.bincount(found[row, tokens]).max() <= limit
        places = np.repeat(np.arange(experts), limit)
        _, columns = linear_sum_assignment(-scores[row, tokens][:, places])
        reached, best = (scores[row, tokens, chosen].sum() for chosen in (found[row, tokens], places[columns]))
        allowed = len(tokens) * np.ptp(scores[row, tokens]) / assignment.PRECISION
        assert best - allowed - 1e-4 <= reached <= best + 1e-4
        if time == 64 and skew:  # the highest scores are not even
            assert np.bincount(scores[row, tokens].argmax(1)).max() > 1.5 * limit


def test_scores_that_are_not_finite_end_the_auction():
    scores = np.full((1, 8, 2), np.nan, np.float32)
    assert jax.jit(assignment.balanced)(scores, np.ones((1, 8), bool)).shape == (1, 8)


@pytest.mark.parametrize("worse", [0.0, 1.0])
def test_tokens_alike_are_spread_evenly(worse):
    """As a new model's are: the auction does not end in time, with a worse expert among them even less."""
    scores = np.zeros((1, 64, 16), np.float32) + 1e-4 * np.random.default_rng(0).standard_normal((1, 64, 16)).astype(np.float32)
    scores[..., 3] -= worse
    found = np.asarray(jax.jit(assignment.balanced)(scores, np.ones((1, 64), bool)))
    assert np.bincount(found[0], minlength=16).tolist() == [4] * 16


@pytest.mark.parametrize("skew", [0.0, 3.0])
@pytest.mark.parametrize(("time", "experts"), [(64, 4), (61, 8), (5, 8), (9, 1)])
def test_shares_are_even_and_the_best(time, experts, skew):
    """Even to the bound, and of the form that makes them the best (Cuturi 2013, lemma 2): logarithms are scores and two sums."""
    generator = np.random.default_rng(0)
    scores = (generator.standard_normal((3, time, experts)) + skew * generator.standard_normal(experts)).astype(np.float32)
    live = np.ones((3, time), bool)
    live[1] = np.arange(time) < time // 2
    live[2] = False
    found = np.asarray(jax.jit(assignment.shares)(scores, live))
    np.testing.assert_allclose(found.sum(-1), live, atol=1e-5)
    even = np.broadcast_to(live.sum(1, keepdims=True) / experts, (3, experts))
    np.testing.assert_allclose(found.sum(1), even, rtol=1.01 * assignment.EVENNESS)
    for row in range(2):
        rest = np.log(found[row, live[row]]) - scores[row, live[row]]
        np.testing.assert_allclose(rest - rest[:, :1], np.broadcast_to(rest[:1] - rest[:1, :1], rest.shape), atol=1e-4)
    if time == 64 and skew:  # the likeliest of each token are nearly even, the highest scores are not
        loads, greedy = (np.bincount(table[0].argmax(-1), minlength=experts).max() for table in (found, scores))
        assert loads <= 1.25 * time / experts < 1.75 * time / experts < greedy


def test_scores_far_apart_end():
    """One expert is out of reach for all tokens: they are shared all the same."""
    scores = np.tile(np.array([[0.0, 0.0, -80.0, 0.0]], np.float32), (64, 1))[None]
    found = np.asarray(jax.jit(assignment.shares)(scores, np.ones((1, 64), bool)))
    np.testing.assert_allclose(found, 0.25, rtol=1e-3)
    assert np.isfinite(np.asarray(jax.jit(assignment.shares)(1e4 * scores, np.ones((1, 64), bool)))).all()
