"""A tokenizer's ids and texts whose every token tells its place."""

import dataclasses

import numpy as np
from scipy import stats

from taxonomy import registry
from taxonomy.objectives.objective import Lengths, Specials

END, START, FIRST, SEPARATOR, TEXT = 0, 1, 2, 3, 10
USED, VOCAB = 3000, 3500
SENTENCE_ENDS = tuple(range(TEXT + 6, USED, 9))
WORD_STARTS = np.random.default_rng(0).random(USED) < 0.4
SPECIALS = Specials(
    start=START,
    vocab=VOCAB,
    used=USED,
    end=END,
    first=FIRST,
    separator=SEPARATOR,
    sentence_ends=SENTENCE_ENDS,
    word_starts=WORD_STARTS,
    score=lambda tokens: float(tokens.mean()) / USED,
)
STACK, PAIR = Lengths(96), Lengths(96, 80)


def text(length, starts=()):
    """Tokens TEXT, TEXT + 1, ... with documents that start at some places."""
    tokens = np.arange(TEXT, TEXT + length, dtype=np.uint16)
    tokens[list(starts)] = START
    return tokens


def make(sentence, tokens=None, seed=0, specials=SPECIALS, lengths=STACK):
    """An example by the objective a sentence says, of as many tokens as it needs by default."""
    objective = registry.create("objective", sentence, "objective")
    tokens = text(objective.needs(lengths)) if tokens is None else tokens
    return objective.example(tokens, np.random.default_rng(seed), specials, lengths)


def create(sentence):
    return registry.create("objective", sentence, "objective")


def marked(objective, name):
    """The id that an objective gives a mark of its own."""
    return SPECIALS.reserve(objective.marks).mark(name)


def equally_likely(counts, ways, chance=1e-4):
    """Whether draws counted are what `ways` equally likely outcomes give: a chi-squared test."""
    counts = list(counts) + [0] * (ways - len(counts))
    assert len(counts) == ways
    return stats.chisquare(counts).pvalue > chance


def within(hits, draws, rate, deviations=5):
    """Whether hits out of draws are what this rate gives, up to five standard deviations."""
    return abs(hits - draws * rate) <= deviations * max((draws * rate * (1 - rate)) ** 0.5, 1e-9)


def same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)
