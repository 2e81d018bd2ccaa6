"""What holds for every objective."""

import dataclasses
import re

import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.objectives import objective as lib
from taxonomy.objectives.objective import Lengths, Specials, check, from_inputs_to_targets

from .common import END, FIRST, PAIR, SEPARATOR, SPECIALS, STACK, START, USED, VOCAB, create, same, text

SENTENCES = (
    "causal",
    "prefix_lm",
    "prefix_lm(rate=0.25)",
    "span_corruption",
    "span_corruption(density=0.5, mean_span=3)",
    "span_corruption(density=0.15, mean_span=64)",
    "denoisers",
    "denoisers(modes=False)",
    "mode(causal, token='C')",
    "mode(permutation_lm, token='P')",
    "mode(blank_infilling(two_dimensional=True), token='B')",
    "mode(random_pivot, token='V')",
    "masked_lm",
    "masked_lm(whole_words=True)",
    "replaced_tokens",
    "text_infilling",
    "text_infilling(shuffle=False)",
    "permutation_lm",
    "permutation_lm(whole_spans=True)",
    "blank_infilling",
    "blank_infilling(short=1.0)",
    "blank_infilling(two_dimensional=True)",
    "fill_in_the_middle(rate=0.9)",
    "control_tokens(causal, threshold=0.1)",
    "control_tokens(span_corruption, threshold=0.1, each='window')",
    "control_tokens(fill_in_the_middle, threshold=0.1, each='document')",
    "pairs",
    "random_pivot",
    "mixture(causal, mode(span_corruption, token='D'), weights=(1, 2))",
    "mixture(masked_lm, permutation_lm)",
)
CASES = [
    (sentence, structure)
    for sentence in SENTENCES
    for structure in lib.STRUCTURES
    if structure in create(sentence).structures and structure != "prefix-decoder"
] + [(s, "prefix-decoder") for s in SENTENCES if create(s).structures == {"prefix-decoder"}]


def lengths_of(structure):
    return PAIR if structure == "encoder-decoder" else STACK


def tokens_for(objective, lengths):
    tokens = text(objective.needs(lengths), starts=(0, 9, 10, 40))
    tokens[20] = SEPARATOR
    return tokens


def test_every_objective_is_tested_here():
    assert {e.name for e in registry.entries("objective")} == {name for s in SENTENCES for name in re.findall(r"[a-z_]+", s)} & {
        e.name for e in registry.entries("objective")
    }


@pytest.mark.parametrize(("sentence", "structure"), CASES)
def test_an_example_keeps_its_promises(sentence, structure):
    objective, lengths = create(sentence), lengths_of(structure)
    generator = "detection" in objective.gives
    check(objective, structure, generator)
    with pytest.raises(UserError, match=r"a generator \(the key model.generator\)"):
        check(objective, structure, not generator)
    tokens = tokens_for(objective, lengths)
    kept = tokens.copy()
    for seed in range(30):
        example = objective.example(tokens, np.random.default_rng(seed), SPECIALS, lengths)
        np.testing.assert_array_equal(tokens, kept)
        size = len(example.tokens)
        assert 1 <= size <= lengths.context
        assert len(example.targets) == len(example.weights) == size
        assert example.weights.dtype == np.float32 and set(example.weights.tolist()) <= {0.0, 1.0} and example.weights.any()
        assert (example.inputs is not None) == (structure == "encoder-decoder")
        for name in ("tokens", "targets", "inputs", "input_targets"):
            if (ids := getattr(example, name)) is not None:
                assert ids.dtype == np.int32 and ids.flags.c_contiguous, name
                assert ids.min() >= 0 and ids.max() < VOCAB, name
                assert not ((ids >= USED) & (ids < VOCAB - objective.extras(lengths))).any(), "more ids than it says"
        if example.inputs is not None:
            assert 1 <= len(example.inputs) <= lengths.inputs
        if example.prefix is not None:
            assert "prefix" in objective.gives
            assert example.prefix.dtype == bool and len(example.prefix) == size
            assert np.all(np.diff(example.prefix.astype(int)) <= 0), "a prefix comes first"
        if example.positions is not None:
            assert example.positions.dtype == np.int32
            assert example.positions.shape == ((size,) if objective.coordinates == 1 else (size, 2))
        if example.segments is not None:
            assert example.segments.dtype == np.int32 and example.segments[0] == 1
            assert set(np.diff(example.segments).tolist()) <= {0, 1}
        if example.order is not None:
            assert "order" in objective.gives and len(example.order) == size
        assert (example.input_targets is None) == ("input_targets" not in objective.gives)
        assert (example.part is None) == ("part" not in objective.gives)
        assert (example.detection is None) == ("detection" not in objective.gives)


@pytest.mark.parametrize(("sentence", "structure"), CASES)
def test_an_example_is_a_function_of_its_arguments(sentence, structure):
    objective, lengths = create(sentence), lengths_of(structure)
    tokens = tokens_for(objective, lengths)
    for seed in range(3):
        one, two = (objective.example(tokens, np.random.default_rng(seed), SPECIALS, lengths) for _ in range(2))
        same(one, two)
    same(one, create(sentence).example(tokens.astype(np.int64), np.random.default_rng(2), SPECIALS, lengths))


@pytest.mark.parametrize(("sentence", "structure"), CASES)
def test_it_takes_fewer_tokens_but_not_more(sentence, structure):
    objective, lengths = create(sentence), lengths_of(structure)
    needs = objective.needs(lengths)
    for size in {2, 3, 5, needs // 2, needs - 1}:
        tokens = text(size)
        tokens[size // 2] = SEPARATOR
        for seed in range(5):
            objective.example(tokens, np.random.default_rng(seed), SPECIALS, lengths)
    for size in [0, 1] + [needs + 1] * (objective.unit == "window"):
        with pytest.raises(ValueError, match=f"takes 2 to {needs} tokens, got {size}"):
            objective.example(text(size), np.random.default_rng(0), SPECIALS, lengths)


@pytest.mark.parametrize(("sentence", "structure"), CASES)
def test_a_vocabulary_without_free_ids_is_an_error(sentence, structure):
    objective, lengths = create(sentence), lengths_of(structure)
    extras = objective.extras(lengths)
    tokens = tokens_for(objective, lengths)
    enough = dataclasses.replace(SPECIALS, vocab=USED + extras)
    for seed in range(10):
        objective.example(tokens, np.random.default_rng(seed), enough, lengths)
    if extras:
        with pytest.raises(UserError, match=f"vocab of at least {USED + extras}"):
            dataclasses.replace(SPECIALS, vocab=USED + extras - 1).extra(extras - 1)


def test_extra_ids_count_down_from_the_top():
    specials = Specials(start=1, vocab=32100, used=32000)
    assert [specials.extra(k) for k in (0, 1, 99)] == [32099, 32098, 32000]
    message = r"needs 101 ids besides the 32000 of the tokenizer, but only 100 of a vocabulary of 32100 are free: use .* 32101$"
    with pytest.raises(UserError, match=message) as error:
        specials.extra(100)
    assert "\n" not in str(error.value)


def test_marks_keep_their_ids_and_sentinels_come_below():
    specials = Specials(start=1, vocab=100, used=50)
    assert specials.sentinel(0) == 99
    reserved = specials.reserve(("a", "b")).reserve(("b", "c"))
    assert [reserved.mark(name) for name in "abc"] == [99, 98, 97]
    assert [reserved.sentinel(k) for k in (0, 1)] == [96, 95]


def test_what_begins_and_ends_is_the_start_by_default():
    assert (Specials(start=7, vocab=9, used=8).ending, Specials(start=7, vocab=9, used=8).beginning) == (7, 7)
    assert (SPECIALS.ending, SPECIALS.beginning) == (END, FIRST)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_an_impossible_structure_is_one_line(sentence):
    objective = create(sentence)
    assert objective.structures and objective.structures <= set(lib.STRUCTURES)
    for structure in set(lib.STRUCTURES) - objective.structures:
        with pytest.raises(
            UserError, match=rf"^objective: {lib.name(objective)} cannot train .* is {structure} \(allowed: "
        ) as error:
            check(objective, structure)
        assert all(allowed in str(error.value) for allowed in objective.structures)


def test_structures_by_name():
    single = {"decoder", "prefix-decoder"}
    assert create("causal").structures == create("fill_in_the_middle").structures == single
    for name in ("prefix_lm", "span_corruption", "denoisers", "pairs"):
        assert create(name).structures == single | {"encoder-decoder"}
    for name in ("text_infilling", "random_pivot"):
        assert create(name).structures == {"encoder-decoder"}
    for name in ("masked_lm", "replaced_tokens", "permutation_lm"):
        assert create(name).structures == {"encoder"}
    assert create("mixture(causal, span_corruption)").structures == single
    assert create("control_tokens(masked_lm, threshold=0.0)").structures == {"encoder"}


@pytest.mark.parametrize(
    ("sentence", "lengths"),
    [
        ("span_corruption", Lengths(2, 100)),
        ("span_corruption", Lengths(3)),
        ("text_infilling", Lengths(2, 2)),
        ("prefix_lm", Lengths(8, 0)),
        ("blank_infilling", Lengths(3)),
        ("fill_in_the_middle", Lengths(7)),
    ],
)
def test_lengths_too_short_are_an_error(sentence, lengths):
    with pytest.raises(UserError, match=rf"objective: {sentence} cannot make an example of Lengths\("):
        create(sentence).needs(lengths)


def test_from_inputs_to_targets_by_hand():
    inputs, targets = np.array([11, 12, 13]), np.array([21, 22])
    pair = from_inputs_to_targets(inputs, targets, SPECIALS, Lengths(9, 9))
    assert (pair.inputs.tolist(), pair.tokens.tolist(), pair.targets.tolist()) == ([11, 12, 13], [FIRST, 21], [21, 22])
    assert pair.weights.tolist() == [1, 1] and pair.prefix is None
    one = from_inputs_to_targets(inputs, targets, SPECIALS, Lengths(9))
    assert (one.tokens.tolist(), one.targets.tolist()) == ([11, 12, 13, 21], [12, 13, 21, 22])
    assert one.weights.tolist() == [0, 0, 1, 1] and one.prefix.tolist() == [True, True, True, False] and one.inputs is None


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("prefix_lm(rate=0.6)", "rate=0.6"),
        ("span_corruption(density=1.0)", "density=1.0"),
        ("span_corruption(mean_span=0.5)", "mean_span=0.5"),
        ("masked_lm(mask=0.9, random=0.2)", "sum to at most 1"),
        ("mixture()", "needs the argument 'parts'"),
        ("mixture(causal, prefix_lm, weights=(1,))", "1 weights for 2 objectives"),
        ("mixture(causal, prefix_lm, weights=(0, 0))", "nor all 0"),
        ("mixture(causal, pairs)", "cannot be mixed"),
        ("fill_in_the_middle(rate=2)", "rate=2"),
        ("control_tokens(causal, threshold=0, drop=2)", "drop=2"),
        ("blank_infilling(rate=0.6)", "rate=0.6"),
        ("permutation_lm(partial=0)", "partial=0"),
        ("text_infilling(mean_span=0)", "mean_span=0"),
        ("random_pivot(rate=0)", "rate=0"),
        ("spam_corruption", "did you mean 'span_corruption'"),
    ],
)
def test_impossible_values_are_errors(sentence, message):
    with pytest.raises(UserError, match=message):
        create(sentence)


def test_the_start_id_is_a_token_like_another_for_denoisers():
    objective = create("span_corruption")
    tokens = text(objective.needs(STACK), starts=(0, 9))
    example = objective.example(tokens, np.random.default_rng(0), SPECIALS, STACK)
    assert np.count_nonzero(np.append(example.tokens, example.targets[-1]) == START) == 2
