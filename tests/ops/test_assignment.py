"""The auction, against the best assignment there is."""

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
