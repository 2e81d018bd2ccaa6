"""Figures of the datasets and the objectives that rows come from."""

import numpy as np
import pytest

from taxonomy.training.parts import Parts, apart


def test_each_dataset_and_each_objective_has_its_own_figures():
    """Sums of the pairs (a, x), (a, y), (b, x), (b, y); objective y has no tokens of b."""
    parts = Parts(("a", "b"), ("x", "y"))
    found = parts.figures(np.array([6.0, 2.0, 4.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0, 0.0]))
    assert parts.count == 4
    assert apart(found) == {
        "a": {"loss": 2.0, "accuracy": 0.5},
        "b": {"loss": 2.0, "accuracy": 0.0},
        "x": {"loss": 2.5, "accuracy": 0.25},
        "y": {"loss": 1.0, "accuracy": 0.5},
    }


def test_what_has_no_tokens_or_no_namesakes_is_left_out():
    assert Parts((), ("x", "y")).figures(*np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])) == {"loss/x": 1.5, "accuracy/x": 0.5}
    assert Parts(("only",)).figures(*np.ones((3, 1))) == {} == Parts().figures(*np.ones((3, 1)))
    with pytest.raises(ValueError):
        Parts(("a", "b")).figures(*np.ones((3, 3)))
