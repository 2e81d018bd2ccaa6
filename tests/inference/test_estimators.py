"""Estimators against the enumeration of all that may be drawn."""

import itertools

import numpy as np
import pytest

from taxonomy.inference.estimators import n_at_k, n_at_k_clustered, n_at_k_sampled, pass_at_k


def mean(values) -> float:
    return float(np.mean(list(values)))


@pytest.mark.parametrize("solving", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(solving, k):
    wanted = mean(min(drawn) < solving for drawn in itertools.combinations(range(6), k))
    assert pass_at_k(6, solving, k) == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_of_many_samples_is_finite():
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1)
    assert pass_at_k(10**6, 3, 10**5) == pytest.approx(1 - 0.9**3, rel=1e-4)


def enumerated(samples: int, passing: int, solving: int, n: int, k: int) -> float:
    """Samples below `solving` are right, those below `passing` pass the examples; all subsets of both draws."""
    each = []
    for drawn in itertools.combinations(range(samples), k):
        left = [one for one in drawn if one < passing]
        each.append(mean(any(one < solving for one in some) for some in itertools.combinations(left, min(n, len(left)))))
    return mean(each)


@pytest.mark.parametrize(("passing", "solving"), [(0, 0), (3, 0), (3, 1), (4, 2), (5, 5), (7, 1), (7, 4)])
def test_n_at_k_is_the_share_of_draws_that_solve(passing, solving):
    for n, k in itertools.product((1, 2, 3, 9), (1, 3, 5, 7)):
        wanted = enumerated(7, passing, solving, n, k)
        assert n_at_k(7, passing, solving, n, k) == pytest.approx(wanted, abs=1e-12)
        assert n_at_k_sampled(7, passing, solving, n, k, subsamples=4000) == pytest.approx(wanted, abs=0.03)


def test_k_submissions_of_k_samples_are_pass_at_k():
    for k in range(1, 9):
        assert n_at_k(8, 8, 3, k, k) == pytest.approx(pass_at_k(8, 3, k))


@pytest.mark.parametrize("n", [1, 2])
def test_clusters_are_chosen_from_as_the_enumeration_says(n):
    """Three alike and right, two alike and wrong, one alone, two that fail; of equal groups the first drawn comes first."""
    behaviours = ["right", "right", "right", "wrong", "wrong", "odd", None, None]
    each = []
    for drawn in itertools.permutations(range(8), 4):
        left = [behaviours[one] for one in drawn if behaviours[one]]
        ranked = sorted(dict.fromkeys(left), key=left.count, reverse=True)
        each.append("right" in ranked[:n])
    found = n_at_k_clustered(behaviours, [one == "right" for one in behaviours], n, 4, subsamples=2000)
    assert found == pytest.approx(mean(each), abs=0.03)
    assert mean(each) > enumerated(8, 6, 3, n, 4) + 0.02  # what clusters are for


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(5, 6, 1), "solving=6 must be at least 0 and at most 5"),
        (lambda: pass_at_k(5, 1, 6), "samples=5 must be at least 6"),
        (lambda: n_at_k(5, 2, 3, 1, 1), "solving=3 must be at least 0 and at most 2"),
        (lambda: n_at_k(5, 2, 1, 0, 1), "n=0 must be at least 1"),
        (lambda: n_at_k_sampled(5, 6, 1, 1, 1, 10), "passing=6 must be at least 0 and at most 5"),
        (lambda: n_at_k_clustered(["a"], [True], 1, 2, 10), "k=2 must be at least 1 and at most 1"),
    ],
)
def test_impossible_counts_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
