"""Span corruption against its definition, one token at a time, and against the published arithmetic of lengths."""

import collections
import itertools

import numpy as np
import pytest

from taxonomy.objectives.objective import Lengths
from taxonomy.objectives.prefix_lm import PrefixLM
from taxonomy.objectives.span_corruption import SpanCorruption

from .common import END, FIRST, PAIR, SPECIALS, STACK, VOCAB, create, equally_likely, make, text


def published_lengths(inputs_length, density, mean_span):
    """Tokens and targets for inputs of this length: the definition of the published code, a search one by one."""

    def lengths(tokens):
        noise = round(tokens * density)
        spans = round(noise / mean_span)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs_length - 1
    while lengths(tokens + 1)[0] <= inputs_length:
        tokens += 1
    return tokens, lengths(tokens)[1]


def test_lengths_are_those_published():
    assert published_lengths(512, 0.15, 3.0) == (568, 114)
    assert SpanCorruption().needs(Lengths(114, 512)) == SpanCorruption().needs(Lengths(512, 512)) == 568
    example = make("span_corruption", lengths=Lengths(114, 512))
    assert (len(example.inputs), len(example.targets)) == (512, 114)
    assert SpanCorruption().sentinels(Lengths(114, 512)) == 28


@pytest.mark.parametrize("inputs", [64, 100, 256, 511, 1024])
@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3), (0.15, 8), (0.15, 64), (0.5, 3), (0.5, 8), (0.5, 64), (0.3, 1)])
def test_needs_is_the_inverse_of_the_lengths(inputs, density, mean_span):
    objective = SpanCorruption(density, mean_span)
    lengths = Lengths(10 * inputs, inputs)
    tokens, targets = published_lengths(inputs, density, mean_span)
    if round(round(tokens * density) / mean_span) == 0:
        # Spans longer than all that is left out: there is one nevertheless, for which the published arithmetic has no room.
        assert tokens - 2 <= objective.needs(lengths) <= tokens
        return
    assert objective.needs(lengths) == tokens
    example = objective.example(text(tokens), np.random.default_rng(0), SPECIALS, lengths)
    assert len(example.inputs) in (inputs, inputs - 1)
    assert len(example.targets) == targets


@pytest.mark.parametrize("context", [16, 17, 50, 96, 300])
def test_a_single_stack_is_filled(context):
    objective = SpanCorruption()
    needs = objective.needs(Lengths(context))
    sizes = [
        len(objective.example(text(n), np.random.default_rng(0), SPECIALS, Lengths(context)).tokens) for n in (needs - 1, needs)
    ]
    assert sizes[0] < sizes[1] <= context
    assert objective._counts(needs + 1)[1] * 2 + needs + 1 + 1 > context


def rebuild(inputs, targets):
    """The text, and which of its tokens were left out, read from what the model is given."""
    spans, current = {}, None
    for token in targets:
        if token > 3000:
            current = spans.setdefault(token, [])
        elif token != END:
            current.append(token)
    tokens, left_out = [], []
    for token in inputs:
        if token == END:
            continue
        piece = spans.pop(token) if token > 3000 else [token]
        left_out += [token > 3000] * len(piece)
        tokens += piece
    assert not spans
    return tokens, left_out


@pytest.mark.parametrize("sentence", ["span_corruption", "span_corruption(density=0.5, mean_span=2)", "span_corruption(0.15, 64)"])
@pytest.mark.parametrize("lengths", [STACK, PAIR])
def test_the_text_can_be_rebuilt(sentence, lengths):
    for seed in range(20):
        example = make(sentence, seed=seed, lengths=lengths)
        if lengths is PAIR:
            inputs, targets = example.inputs.tolist(), example.targets.tolist()
            assert example.tokens.tolist() == [FIRST, *targets[:-1]] and example.weights.all()
        else:
            whole = [*example.tokens.tolist(), int(example.targets[-1])]
            assert example.targets.tolist() == whole[1:]
            split = int(example.prefix.sum())
            inputs, targets = whole[:split], whole[split:]
            assert example.weights.tolist() == [0.0] * (split - 1) + [1.0] * len(targets)
        assert inputs[-1] == targets[-1] == END
        sentinels = [t for t in inputs if t > 3000]
        assert sentinels == [VOCAB - 1 - k for k in range(len(sentinels))] == [t for t in targets if t > 3000]
        tokens, left_out = rebuild(inputs, targets)
        assert tokens == text(len(tokens)).tolist()
        assert (sum(left_out), len(sentinels)) == create(sentence)._counts(len(tokens))
        assert not left_out[0] and left_out[-1]


def test_every_mask_of_so_many_spans_is_equally_likely():
    """All masks of 9 tokens with 4 left out in 2 spans that begin with a kept token and end with one left out."""
    tokens = text(9)
    masks = [
        mask
        for mask in itertools.product((False, True), repeat=9)
        if sum(mask) == 4 and not mask[0] and mask[-1] and sum(b and not a for a, b in itertools.pairwise(mask)) == 2
    ]
    objective, generator = SpanCorruption(0.45, 2.0), np.random.default_rng(0)
    drawn = collections.Counter()
    for _ in range(200 * len(masks)):
        example = objective.example(tokens, generator, SPECIALS, Lengths(50, 50))
        drawn[tuple(rebuild(example.inputs.tolist(), example.targets.tolist())[1])] += 1
    assert set(drawn) == set(masks) and equally_likely(drawn.values(), len(masks))


class TestPrefixLM:
    @pytest.mark.parametrize(("rate", "shortest"), [(0.5, 1), (0.25, 10)])
    def test_every_split_is_equally_likely(self, rate, shortest):
        objective, generator, tokens = PrefixLM(rate), np.random.default_rng(0), text(21)
        drawn = collections.Counter()
        for _ in range(4000):
            example = objective.example(tokens, generator, SPECIALS, STACK)
            split = int(example.prefix.sum())
            drawn[split] += 1
            np.testing.assert_array_equal(example.tokens, tokens[:-1])
            np.testing.assert_array_equal(example.targets, tokens[1:])
            np.testing.assert_array_equal(example.weights, np.arange(20) >= split - 1)
        assert min(drawn) == shortest and max(drawn) == 20
        assert equally_likely(drawn.values(), 21 - shortest)
        assert np.isclose(sum((21 - s) * n for s, n in drawn.items()) / 4000 / 21, rate, atol=0.04)

    @pytest.mark.parametrize("rate", [0.5, 0.25])
    def test_both_parts_fit_however_the_split_falls(self, rate):
        for context, inputs in ((64, 64), (30, 64), (64, 30)):
            lengths, objective = Lengths(context, inputs), PrefixLM(rate)
            needs = objective.needs(lengths)
            tokens = text(needs)
            longest = [0, 0]
            for seed in range(400):
                example = objective.example(tokens, np.random.default_rng(seed), SPECIALS, lengths)
                np.testing.assert_array_equal(np.concatenate([example.inputs, example.targets]), tokens)
                longest = [max(longest[0], len(example.targets)), max(longest[1], len(example.inputs))]
            assert longest[0] <= context and longest[1] <= inputs
            assert longest[0] == context or longest[1] == inputs
