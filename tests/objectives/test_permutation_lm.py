"""Random orders: what is predicted, and that nothing is seen before its turn."""

import collections
import itertools

import numpy as np

from taxonomy.objectives.objective import Lengths
from taxonomy.objectives.permutation_lm import PermutationLM

from .common import SPECIALS, equally_likely, make, text

LONG = Lengths(512)


def test_one_in_so_many_is_predicted_in_its_place():
    lengths = collections.Counter()
    for seed in range(100):
        example = make("permutation_lm", seed=seed, lengths=LONG)
        np.testing.assert_array_equal(example.tokens, text(512))
        np.testing.assert_array_equal(example.targets, text(512))
        predicted = example.weights > 0
        # As published for 512 tokens: 85.
        assert predicted.sum() == 85
        assert sorted(example.order[predicted].tolist()) == list(range(1, 86))
        assert (example.order[~predicted] == 0).all()
        lengths.update(len(list(group)) for hit, group in itertools.groupby(predicted) if hit)
    assert max(lengths) > 3 and sum(n * k for n, k in lengths.items()) / lengths.total() > 2.5


def test_every_order_of_tokens_is_equally_likely():
    objective, generator = PermutationLM(partial=2, max_span=3), np.random.default_rng(0)
    drawn, places = collections.Counter(), collections.Counter()
    for _ in range(3000):
        example = objective.example(text(6), generator, SPECIALS, LONG)
        drawn[tuple(example.order[example.weights > 0].tolist())] += 1
        places.update(np.flatnonzero(example.weights).tolist())
    assert equally_likely(drawn.values(), 6)
    assert set(places) == set(range(6))


def test_whole_spans_are_predicted_from_left_to_right():
    firsts = collections.Counter()
    for seed in range(200):
        example = make("permutation_lm(whole_spans=True)", seed=seed, lengths=LONG)
        turns = example.order[example.weights > 0]
        assert sorted(turns.tolist()) == list(range(1, 86))
        # Wherever the next turn is not the next token, a span ends: there are no more jumps than spans.
        jumps = np.count_nonzero(np.diff(np.argsort(turns)) != 1)
        assert 85 / 5 - 1 <= jumps <= 60
        firsts[int(np.argmin(turns) < 42)] += 1
    assert equally_likely(firsts.values(), 2)


def test_the_likelihood_is_a_factorisation():
    """Each predicted token sees all that is only read and exactly those predicted before it: 0, 1, 2, ... of them."""
    example = make("permutation_lm", seed=1)
    order = example.order
    seen = [[j for j in range(96) if order[j] < order[i]] for i in np.flatnonzero(example.weights)]
    read = 96 - int(example.weights.sum())
    assert sorted(map(len, seen)) == list(range(read, 96))
