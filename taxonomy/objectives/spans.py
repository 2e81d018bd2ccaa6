"""Random spans of a text: how long, where, and the text with them or without.

Spans are given by starts [S] and lengths [S], in order of place and without overlap; a span may be empty.
"""

from collections.abc import Callable

import numpy as np


def segmentation(items: int, segments: int, generator: np.random.Generator) -> np.ndarray:
    """Lengths [segments], each at least 1, that sum to `items`: every such sequence is equally likely."""
    cuts = np.sort(generator.choice(items - 1, segments - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=items)


def lengths_up_to(total: int, draw: Callable[[], int]) -> np.ndarray:
    """Lengths drawn one after the other until they sum to `total`, the last cut to fit. `draw` must not always give 0."""
    lengths, left = [], total
    while left > 0:
        lengths.append(min(int(draw()), left))
        left -= lengths[-1]
    return np.array(lengths, np.int64)


def place(lengths_S: np.ndarray, total: int, generator: np.random.Generator, gap: int = 0) -> np.ndarray:
    """Starts [S] of spans, in this order, in a text of `total` tokens, at least `gap` apart: every way is equally likely."""
    spans = len(lengths_S)
    free = total - int(lengths_S.sum()) - gap * max(0, spans - 1)
    # Spans among the free tokens, as bars among stars.
    bars = np.sort(generator.choice(free + spans, spans, replace=False))
    before = np.cumsum(lengths_S) - lengths_S
    return bars - np.arange(spans) + gap * np.arange(spans) + before


def inside(starts_S: np.ndarray, lengths_S: np.ndarray, total: int) -> np.ndarray:
    """Bool [total]: the tokens of the spans."""
    edges = np.zeros(total + 1, np.int64)
    np.add.at(edges, starts_S, 1)
    np.add.at(edges, starts_S + lengths_S, -1)
    return np.cumsum(edges[:-1]) > 0


def replaced(tokens_N: np.ndarray, starts_S: np.ndarray, lengths_S: np.ndarray, fillers_S: np.ndarray) -> np.ndarray:
    """The text with each span replaced by one filler."""
    kept = tokens_N[~inside(starts_S, lengths_S, len(tokens_N))]
    return np.insert(kept, starts_S - (np.cumsum(lengths_S) - lengths_S), fillers_S)


def collected(tokens_N: np.ndarray, starts_S: np.ndarray, lengths_S: np.ndarray, fillers_S: np.ndarray) -> np.ndarray:
    """The spans, one after the other, each behind its filler."""
    spans = tokens_N[inside(starts_S, lengths_S, len(tokens_N))]
    return np.insert(spans, np.cumsum(lengths_S) - lengths_S, fillers_S)
