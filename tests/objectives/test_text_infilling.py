"""Damaged texts: what is hidden, what masks stand for, and in which order sentences come."""

import collections
import dataclasses

import numpy as np
import pytest

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Lengths

from .common import END, FIRST, SENTENCE_ENDS, SPECIALS, VOCAB, equally_likely, make, text, within

LENGTHS = Lengths(401, 401)
MASK = VOCAB - 1


def test_the_target_is_the_original_and_the_inputs_keep_the_rest():
    masks, hidden_before, halves = [], collections.Counter(), np.zeros(2, int)
    for seed in range(300):
        example = make("text_infilling(shuffle=False)", seed=seed, lengths=LENGTHS)
        tokens = text(400)
        assert example.targets.tolist() == [*tokens, END] and example.weights.all()
        assert example.tokens.tolist() == [FIRST, *tokens]
        inputs = example.inputs.tolist()
        assert inputs.pop() == END
        kept = [t for t in inputs if t != MASK]
        assert len(kept) == 400 - 120 and kept == sorted(kept)
        masks.append(inputs.count(MASK))
        # What one mask stands for: nothing, or a stretch of the text.
        for before, token, after in zip([9, *inputs], inputs, [*inputs[1:], 410], strict=False):
            if token == MASK and MASK not in (before, after):
                hidden_before[after - before - 1] += 1
                if after - before > 6:
                    halves[int(before > 210)] += 1
    assert within(halves[0], halves.sum(), 0.5), "long spans stand anywhere"
    # 120 tokens in spans of Poisson(3), the last cut to fit: about 40.4 spans.
    assert np.mean(masks) == pytest.approx(40.4, abs=0.8)
    total = sum(hidden_before.values())
    poisson = [np.exp(-3) * 3.0**k / np.prod(range(1, k + 1)) for k in range(7)]
    for length, rate in enumerate(poisson):
        assert hidden_before[length] / total == pytest.approx(rate, abs=0.02), length


def test_inputs_are_never_longer_than_the_text():
    for seed in range(300):
        size = 2 + seed % 20
        example = make("text_infilling(mean_span=0.2, rate=0.5, shuffle=False)", text(size), seed=seed, lengths=LENGTHS)
        assert len(example.inputs) <= size + 1


def test_sentences_are_shuffled_whole():
    tokens = text(40)
    sentences, current = [], []
    for token in tokens.tolist():
        current.append(token)
        if token in SENTENCE_ENDS:
            sentences.append(tuple(current))
            current = []
    sentences.append(tuple(current))
    assert len(sentences) == 5
    firsts = collections.Counter()
    for seed in range(500):
        example = make("text_infilling(rate=0.05)", tokens, seed=seed, lengths=LENGTHS)
        assert example.targets.tolist() == [*tokens, END]
        kept = [t for t in example.inputs.tolist() if t not in (MASK, END)]
        assert len(kept) == 38
        order = list(dict.fromkeys(next(i for i, s in enumerate(sentences) if t in s) for t in kept))
        assert len(order) == 5
        # Within a sentence the order is that of the text, and no other sentence stands in between.
        assert kept == [t for i in order for t in sentences[i] if t in kept]
        firsts[order[0]] += 1
    assert equally_likely(firsts.values(), 5)


def test_sentences_without_ends_are_an_error():
    with pytest.raises(UserError, match="which tokens end a sentence; use shuffle=False"):
        make("text_infilling", lengths=LENGTHS, specials=dataclasses.replace(SPECIALS, sentence_ends=()))
