"""Random spans against an enumeration of all ways, and texts without them against loops."""

import collections
import itertools

import numpy as np
import pytest

from taxonomy.objectives import spans

from .common import equally_likely, text


@pytest.mark.parametrize(("items", "segments"), [(1, 1), (5, 1), (5, 5), (6, 3), (7, 2)])
def test_every_segmentation_is_equally_likely(items, segments):
    ways = [w for w in itertools.product(range(1, items + 1), repeat=segments) if sum(w) == items]
    generator = np.random.default_rng(0)
    drawn = collections.Counter(tuple(spans.segmentation(items, segments, generator).tolist()) for _ in range(200 * len(ways)))
    assert set(drawn) <= set(ways)
    assert len(ways) == 1 or equally_likely(drawn.values(), len(ways))


@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize(("lengths", "total"), [((2, 1), 7), ((1, 0, 2), 8), ((3,), 5), ((0, 0), 3), ((), 4)])
def test_every_place_is_equally_likely(lengths, total, gap):
    def possible(starts):
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        apart = all(start - end >= gap for start, end in zip(starts[1:], ends, strict=False))
        return apart and all(end <= total for end in ends)

    ways = [w for w in itertools.product(range(total + 1), repeat=len(lengths)) if possible(w)]
    generator = np.random.default_rng(1)
    drawn = collections.Counter(
        tuple(spans.place(np.array(lengths, int), total, generator, gap).tolist()) for _ in range(100 * len(ways))
    )
    assert set(drawn) <= set(ways)
    assert len(ways) == 1 or equally_likely(drawn.values(), len(ways))


def test_lengths_are_drawn_until_they_reach_the_total():
    draws = iter([3, 0, 4, 9])
    assert spans.lengths_up_to(10, lambda: next(draws)).tolist() == [3, 0, 4, 3]
    assert spans.lengths_up_to(0, lambda: 1).tolist() == []


@pytest.mark.parametrize("seed", range(20))
def test_texts_without_and_of_spans(seed):
    generator = np.random.default_rng(seed)
    tokens = text(generator.integers(12, 40))
    lengths = generator.integers(0, 4, size=generator.integers(0, 4))
    starts = spans.place(lengths, len(tokens), generator)
    fillers = np.arange(len(lengths)) + 1000
    without, only, place = [], [], 0
    for start, length, filler in zip(starts, lengths, fillers, strict=True):
        without += [*tokens[place:start], filler]
        only += [filler, *tokens[start : start + length]]
        place = start + length
    without += [*tokens[place:]]
    assert spans.replaced(tokens, starts, lengths, fillers).tolist() == without
    assert spans.collected(tokens, starts, lengths, fillers).tolist() == only
    inside = spans.inside(starts, lengths, len(tokens))
    assert inside.sum() == lengths.sum() and tokens[inside].tolist() == [t for t in only if t < 1000]
