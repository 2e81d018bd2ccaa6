"""Which objective an example is made by, and the token that names it."""

import collections

import numpy as np
import pytest

from taxonomy.objectives.causal import Causal
from taxonomy.objectives.mixture import Denoisers, Mixture
from taxonomy.objectives.mode import Mode, prepend
from taxonomy.objectives.objective import Example, Lengths
from taxonomy.objectives.prefix_lm import PrefixLM
from taxonomy.objectives.span_corruption import SpanCorruption

from .common import END, PAIR, SPECIALS, STACK, VOCAB, create, equally_likely, make, same, text, within


def test_parts_are_drawn_in_proportion_and_recorded():
    mixture = create("mixture(causal, prefix_lm, span_corruption, weights=(6, 3, 1))")
    tokens = text(mixture.needs(STACK))
    drawn = collections.Counter(mixture.example(tokens, np.random.default_rng(i), SPECIALS, STACK).part for i in range(2000))
    assert all(within(drawn[part], 2000, rate) for part, rate in enumerate((0.6, 0.3, 0.1)))
    alike = create("mixture(prefix_lm, span_corruption, span_corruption(mean_span=8), prefix_lm)").labels
    assert alike == ("prefix_lm#1", "span_corruption(mean_span=3.0)", "span_corruption(mean_span=8.0)", "prefix_lm#2")
    assert mixture.labels == ("causal", "prefix_lm", "span_corruption")
    assert create("mixture(causal, prefix_lm)").chances.tolist() == [0.5, 0.5]
    assert 0 not in {make("mixture(causal, prefix_lm, weights=(0, 1))", seed=i).part for i in range(30)}


def test_objects_serve_as_well_as_sentences():
    one, two = Mixture((Causal(), SpanCorruption(0.5, 8.0))), create("mixture(causal, span_corruption(density=0.5, mean_span=8))")
    tokens = text(one.needs(STACK))
    for seed in range(10):
        same(*(o.example(tokens, np.random.default_rng(seed), SPECIALS, STACK) for o in (one, two)))
    assert one.labels == ("causal", "span_corruption")


def test_a_part_that_takes_less_is_given_any_stretch():
    mixture = Mixture((SpanCorruption(0.15, 3.0), SpanCorruption(0.5, 8.0)), (1.0, 0.0))
    needs, own = mixture.needs(PAIR), SpanCorruption().needs(PAIR)
    assert needs == SpanCorruption(0.5, 8.0).needs(PAIR) > own
    firsts = collections.Counter()
    for seed in range(3000):
        firsts[int(mixture.example(text(needs), np.random.default_rng(seed), SPECIALS, PAIR).inputs[0])] += 1
    assert equally_likely(firsts.values(), needs - own + 1)
    assert min(firsts) == 10 and max(firsts) == 10 + needs - own


def test_marks_of_all_parts_are_disjoint_and_sentinels_below_them():
    mixture = create("mixture(fill_in_the_middle(rate=1.0), mode(span_corruption, token='D'))")
    assert mixture.marks == ("prefix", "suffix", "middle", "mode D")
    assert mixture.extras(STACK) == 4 + SpanCorruption().sentinels(Lengths(STACK.context - 1))
    for seed in range(20):
        example = make("mixture(fill_in_the_middle(rate=1.0), mode(span_corruption, token='D'))", seed=seed)
        extra = set(example.tokens[example.tokens > 3000].tolist())
        if example.part == 0:
            assert extra == {VOCAB - 1, VOCAB - 2, VOCAB - 3}
        else:
            assert example.tokens[0] == VOCAB - 4 and max(extra - {VOCAB - 4}) == VOCAB - 5


@pytest.mark.parametrize("lengths", [STACK, PAIR])
@pytest.mark.parametrize("inner", [SpanCorruption(), PrefixLM()])
def test_a_mode_is_the_same_example_behind_a_token(inner, lengths):
    mode = Mode(inner, "M")
    shorter = Lengths(lengths.context - 1) if lengths.inputs is None else Lengths(lengths.context, lengths.inputs - 1)
    assert mode.needs(lengths) == inner.needs(shorter)
    tokens = text(mode.needs(lengths))
    whole = mode.example(tokens, np.random.default_rng(0), SPECIALS, lengths)
    plain = inner.example(tokens, np.random.default_rng(0), SPECIALS.reserve(("mode M",)), shorter)
    if lengths.inputs is None:
        assert whole.tokens.tolist() == [VOCAB - 1, *plain.tokens]
        assert whole.targets[1:].tolist() == plain.targets.tolist() and whole.weights.tolist() == [0, *plain.weights]
        assert whole.prefix.tolist() == [True, *plain.prefix]
    else:
        assert whole.inputs.tolist() == [VOCAB - 1, *plain.inputs]
        np.testing.assert_array_equal(whole.tokens, plain.tokens)
        np.testing.assert_array_equal(whole.targets, plain.targets)


def test_a_token_in_front_moves_the_first_text_only():
    ones = np.ones(4, np.float32)
    tokens, segments = np.arange(4, dtype=np.int32), np.array([1, 1, 2, 2], np.int32)
    example = Example(tokens, tokens, ones, positions=np.array([0, 1, 0, 1], np.int32), segments=segments)
    moved = prepend(example, 99)
    assert moved.positions.tolist() == [0, 1, 2, 0, 1] and moved.segments.tolist() == [1, 1, 1, 2, 2]
    pairs = np.array([[0, 0], [1, 0], [1, 1], [1, 2]], np.int32)
    assert prepend(Example(tokens, tokens, ones, positions=pairs), 99).positions.tolist() == [
        [0, 0],
        [1, 0],
        [2, 0],
        [2, 1],
        [2, 2],
    ]


class TestDenoisers:
    def test_they_are_the_seven_published(self):
        """Tay et al. 2022, Table 1."""
        denoisers = Denoisers()
        assert denoisers.marks == ("mode R", "mode S", "mode X")
        assert denoisers.labels == ("R1", "R2", "S1", "X1", "X2", "X3", "X4")
        assert denoisers.chances.tolist() == [1 / 7] * 7
        spans = [(d.token, d.inner.mean_span, d.inner.density) for d in denoisers.choices if isinstance(d.inner, SpanCorruption)]
        assert sorted(spans) == [("R", 3, 0.15), ("R", 8, 0.15), ("X", 3, 0.5), ("X", 8, 0.5), ("X", 64, 0.15), ("X", 64, 0.5)]
        (sequential,) = (d for d in denoisers.choices if d.token == "S")
        assert sequential.inner == PrefixLM(0.25)

    @pytest.mark.parametrize("lengths", [Lengths(512), Lengths(512, 512)])
    def test_rates_and_modes(self, lengths):
        denoisers = Denoisers()
        tokens = text(denoisers.needs(lengths))
        drawn, predicted, spans = collections.Counter(), collections.defaultdict(list), collections.defaultdict(list)
        for seed in range(350):
            example = denoisers.example(tokens, np.random.default_rng(seed), SPECIALS, lengths)
            label = denoisers.labels[example.part]
            drawn[label] += 1
            first = example.tokens[0] if lengths.inputs is None else example.inputs[0]
            assert first == VOCAB - 1 - "RSX".index(label[0])
            targets = example.targets[example.weights > 0]
            assert (targets < 3000).all() if label[0] == "S" else targets[0] == VOCAB - 4
            words = np.count_nonzero((targets < 3000) & (targets != END))
            inputs = example.inputs if lengths.inputs else example.tokens[example.prefix]
            kept = np.count_nonzero((inputs < 3000) & (inputs != END))
            predicted[label].append(words / (words + kept))
            spans[label].append(words / max(1, np.count_nonzero(targets > 3000)))
        assert equally_likely(drawn.values(), 7)
        rates = dict(R1=0.15, R2=0.15, S1=0.25, X1=0.5, X2=0.5, X3=0.15, X4=0.5)
        for label, rate in rates.items():
            assert np.mean(predicted[label]) == pytest.approx(rate, abs=0.07 if label == "S1" else 0.01), label
        for label, length in dict(R1=3, R2=8, X1=3, X2=8).items():
            assert np.mean(spans[label]) == pytest.approx(length, rel=0.06), label

    def test_without_modes(self):
        assert Denoisers(modes=False).marks == ()
        example = make("denoisers(modes=False)", lengths=PAIR)
        assert example.inputs[0] == 10 or example.inputs[0] < 3000
