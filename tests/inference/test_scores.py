"""Metrics on examples worked out by hand."""

import math

import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError


def score(sentence, said, wanted):
    return registry.create("metric", sentence, "config.evaluation.metrics")(said, wanted)


CLASSES = ["a", "a", "b", "b", "c", "c"]
GUESSES = ["a", "b", "b", "b", "x", "c"]


@pytest.mark.parametrize(
    ("sentence", "said", "wanted", "value"),
    [
        ("accuracy", ["a", " b ", "C", ""], ["a", "b", "c", "d"], 2 / 4),
        ("exact_match", ["The  Cat.", "cat!", "a dog", "dogs"], ["cat", "a cat", "dog", "dog"], 3 / 4),
        # 2 of 3 words said are among 2 wanted: precision 2/3, recall 1. Then nothing in common, and nothing at all.
        ("f1", ["new york city", "paris", "the"], ["New York", "London", ""], (0.8 + 0 + 1) / 3),
        # A word said twice counts once: precision 1/2, recall 1.
        ("f1", ["york york"], ["york"], 2 / 3),
        # a: 1 right of 1 said, 2 wanted; b: 2 of 3, 2; c: 1 of 1, 2.
        ("class_f1", GUESSES, CLASSES, (2 / 3 + 4 / 5 + 2 / 3) / 3),
        ("class_f1(positive='b')", GUESSES, CLASSES, 4 / 5),
        ("class_f1(positive='b')", ["x"], ["a"], 0.0),
        # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
        ("matthews", [*"yyyynnnnnn"], [*"yyynyynnnn"], (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6)),
        ("matthews", [*"yyyy"], [*"yyyn"], 0.0),
        ("correlation", ["1", "2", "6"], ["2.0", "4.0", "12.0"], 1.0),
        # Means 2 and 2; products of what is left -1 * -1 + 1 * 0 + 0 * 1.
        ("correlation", ["1", "3", "2"], ["1", "2", "3"], 0.5),
        ("correlation", ["not a number", "0"], ["1", "2"], 0.0),
        ("correlation(kind='spearman')", ["1", "2", "60"], ["-3", "4", "4.5"], 1.0),
        ("correlation(kind='spearman')", ["3", "2", "1"], ["-3", "4", "400"], -1.0),
        # 3 of 4 words, 2 of 3 pairs, 1 of 2 triples; 1 - 4/3 is the brevity of 4 words for 5.
        ("bleu", ["a b c d"], ["a b c d"], 100.0),
        (
            "bleu",
            ["the cat sat on the mat now"],
            ["the cat sat on the mat today here"],
            100 * math.exp(1 - 8 / 7) * ((6 / 7) * (5 / 6) * (4 / 5) * (3 / 4)) ** 0.25,
        ),
        # Words: 3 of 4 said, 3 of 5 wanted; pairs: 2 of 3, 2 of 4; the longest common subsequence has 3.
        ("rouge(kind='rouge1')", ["a b c x"], ["a b c y z"], 100 * 2 * 3 / 9),
        ("rouge(kind='rouge2')", ["a b c x"], ["a b c y z"], 100 * 2 * 2 / 7),
        ("rouge", ["a x b y c"], ["a b c"], 100 * 2 * 3 / 8),
        ("rouge(kind='rougeLsum')", ["a b\nc d"], ["a b\nd c"], 100 * 3 / 4),
    ],
)
def test_by_hand(sentence, said, wanted, value):
    assert score(sentence, said, wanted) == pytest.approx(value, abs=1e-9)


def test_correlations_are_those_of_scipy():
    import scipy.stats

    one, other = np.random.default_rng(0).integers(0, 9, (2, 40)) / 2
    texts = [str(x) for x in one], [str(x) for x in other]
    assert score("correlation", *texts) == pytest.approx(scipy.stats.pearsonr(one, other).statistic)
    assert score("correlation(kind='spearman')", *texts) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


def test_a_missing_library_is_one_line(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, library in (("bleu", "sacrebleu"), ("rouge", "rouge_score")):
        with pytest.raises(UserError, match=rf"{name}: needs the library {library}.*pip install -e '.\[tasks\]'") as caught:
            score(name, [], [])
        assert len(str(caught.value).splitlines()) <= 2
    assert score("accuracy", ["a"], ["a"]) == 1.0


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match=r"config\.evaluation\.metrics: unknown metric 'blue'.*bleu"):
        score("blue", [], [])
