"""Pairs cut at their separator, in every length of either half."""

import dataclasses

import numpy as np
import pytest

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Lengths
from taxonomy.objectives.pairs import Pairs

from .common import END, FIRST, SEPARATOR, SPECIALS, START, make


def pair(first, second, begun=True):
    one, two = np.arange(100, 100 + first), np.arange(500, 500 + second)
    return np.concatenate([[START] * begun, one, [SEPARATOR], two]).astype(int), one.tolist(), two.tolist()


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("first", [0, 1, 5, 30])
@pytest.mark.parametrize("second", [0, 1, 4, 40])
def test_halves_go_where_they_belong(first, second, begun):
    tokens, one, two = pair(first, second, begun)
    if len(tokens) < 2:
        return
    example = make("pairs", tokens, lengths=Lengths(20, 12))
    assert example.inputs.tolist() == [*one[:11], END]
    assert example.targets.tolist() == [*two[:19], END] and example.weights.all()
    assert example.tokens.tolist() == [FIRST, *two[:19]]

    example = make("pairs", tokens, lengths=Lengths(20))
    whole = [*example.tokens.tolist(), int(example.targets[-1])]
    assert whole[1:] == example.targets.tolist() and len(whole) == min(21, len(tokens) + 1)
    cut = whole.index(SEPARATOR) + 1
    head, tail = whole[begun : cut - 1], whole[cut:]
    assert (whole[0] == START) == begun and tail.pop() == END
    assert head == one[: len(head)] and tail == two[: len(tail)]
    assert example.weights.tolist() == [0.0] * (cut - 1) + [1.0] * (len(tail) + 1)
    assert example.prefix.tolist() == [True] * cut + [False] * (len(whole) - 1 - cut)
    if len(tokens) > 20:
        assert len(tail) >= min(len(two), 9) and len(head) >= min(len(one), 9)


def test_only_the_first_separator_counts():
    example = make("pairs", np.array([START, 11, SEPARATOR, 12, SEPARATOR, 13]), lengths=Lengths(20, 12))
    assert (example.inputs.tolist(), example.targets.tolist()) == ([11, END], [12, SEPARATOR, 13, END])


def test_a_document_without_a_separator_is_an_error():
    with pytest.raises(UserError, match=rf"needs a separator \(id {SEPARATOR}\) in every document"):
        make("pairs", np.array([START, 11, 12]))
    with pytest.raises(UserError, match=r"needs a separator \(id None\)"):
        make("pairs", np.array([START, 11, 12]), specials=dataclasses.replace(SPECIALS, separator=None))


def test_what_fits_uncut_is_what_it_needs():
    lengths = Lengths(20, 12)
    tokens, *_ = pair(11, 19)
    assert len(tokens) == Pairs().needs(lengths) == 32
    example = make("pairs", tokens, lengths=lengths)
    assert (len(example.inputs), len(example.targets)) == (12, 20)
    tokens, *_ = pair(8, 10)
    assert len(tokens) == Pairs().needs(Lengths(20)) == 20
    example = make("pairs", tokens, lengths=Lengths(20))
    assert [*example.tokens.tolist(), int(example.targets[-1])] == [*tokens.tolist(), END]
