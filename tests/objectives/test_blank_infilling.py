"""Blanks read back by somebody who knows the format alone."""

import collections
import itertools

import numpy as np
import pytest

from taxonomy.objectives.blank_infilling import BlankInfilling
from taxonomy.objectives.objective import Lengths

from .common import SPECIALS, VOCAB, equally_likely, text, within

MASK, REST, FIRST, LAST = VOCAB - 1, VOCAB - 2, VOCAB - 3, VOCAB - 4
LENGTHS = Lengths(256)


def read_back(example):
    """The text and the spans in the order of their prediction, as (place of the mask, tokens)."""
    split = int(example.prefix.sum())
    context = example.tokens[:split].tolist()
    masks = [place for place, token in enumerate(context) if token in (MASK, REST)]
    spans, current = [], None
    for token, target in zip(example.tokens[split:].tolist(), example.targets[split:].tolist(), strict=True):
        if token == FIRST:
            current = []
        else:
            assert token == current[-1], "a span reads what it predicted"
        if target == LAST:
            spans.append(current)
            current = None
        else:
            current.append(target)
    assert current is None
    return context, masks, spans


def filled(context, masks, spans):
    by_place = dict(zip(masks, sorted(spans), strict=True))  # tokens of the text rise from left to right
    return [t for place, token in enumerate(context) for t in by_place.get(place, [token])]


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_the_text_can_be_rebuilt(two_dimensional):
    objective = BlankInfilling(two_dimensional=two_dimensional)
    kinds, lengths, orders, shares = collections.Counter(), [], collections.Counter(), []
    assert objective.needs(LENGTHS) == 254
    for seed in range(400):
        example = objective.example(text(254), np.random.default_rng(seed), SPECIALS, LENGTHS)
        context, masks, spans = read_back(example)
        tokens = filled(context, masks, spans)
        assert tokens == text(len(tokens)).tolist()
        split = len(context)
        assert example.weights.tolist() == [0.0] * split + [1.0] * (len(example.tokens) - split)
        kind = {context[place] for place in masks}
        kinds[kind == {REST}] += 1
        if kind == {REST}:
            assert masks == [split - 1] and len(example.tokens) == 256 and len(tokens) == 254
            shares.append(len(spans[0]))
        else:
            assert kind == {MASK} and 254 <= len(example.tokens) <= 256
            assert sum(map(len, spans)) == round(0.15 * len(tokens))
            assert all(second - first > 1 for first, second in itertools.pairwise(masks)), "spans do not touch"
            lengths += map(len, spans)
            orders[spans[0] < spans[1]] += 1
        if two_dimensional:
            place_of = dict(zip(sorted(map(tuple, spans)), masks, strict=True))
            expected = [[place, 0] for place in range(split)]
            for span in spans:
                expected += [[place_of[tuple(span)], 1 + offset] for offset in range(len(span) + 1)]
            assert example.positions.tolist() == expected
        else:
            assert example.positions is None
    assert within(kinds[True], 400, 0.7)
    assert equally_likely(orders.values(), 2), "spans are shuffled"
    # Poisson(3) without 0 has the mean 3 / (1 - exp(-3)).
    assert np.mean(lengths) == pytest.approx(3 / (1 - np.exp(-3)), abs=0.15) and min(lengths) >= 1
    # The rest of the text: from a fifth to all but one token, evenly.
    assert min(shares) >= 51 and max(shares) <= 253 and np.mean(shares) == pytest.approx(152, abs=12)


def test_positions_by_hand():
    objective = BlankInfilling(short=0.0, least_suffix=0.5, two_dimensional=True)
    example = objective.example(np.array([11, 12]), np.random.default_rng(0), SPECIALS, LENGTHS)
    assert example.tokens.tolist() == [11, REST, FIRST, 12] and example.targets.tolist()[2:] == [12, LAST]
    assert example.positions.tolist() == [[0, 0], [1, 0], [1, 1], [1, 2]]
