"""Control tokens against a loop over the text."""

import dataclasses

import numpy as np
import pytest

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Lengths

from .common import SENTENCE_ENDS, SPECIALS, STACK, START, VOCAB, create, make, same, text, within

GOOD, BAD = VOCAB - 1, VOCAB - 2
ODD = dataclasses.replace(SPECIALS, score=lambda tokens: float(len(tokens) % 2))


def slow(tokens, each):
    """The text with its control tokens, none dropped, one token at a time; odd stretches are good."""
    stretches, current = [], []
    for place, token in enumerate(tokens.tolist()):
        previous = int(tokens[place - 1]) if place else None
        if place and ((each != "window" and token == START) or (each == "sentence" and previous in SENTENCE_ENDS)):
            stretches.append(current)
            current = []
        current.append(token)
    stretches.append(current)
    out = []
    for stretch in stretches:
        begun = stretch[0] == START
        body = [t for t in stretch if t != START]
        mark = [GOOD if len(body) % 2 else BAD] if body else []
        out += [*stretch[:begun], *mark, *stretch[begun:]]
    return out


@pytest.mark.parametrize("each", ["sentence", "document", "window"])
@pytest.mark.parametrize("starts", [(), (0,), (0, 9, 10, 40, 95), (5, 94)])
def test_every_stretch_is_told_how_good_it_is(each, starts):
    objective = create(f"control_tokens(causal, threshold=0.5, each='{each}', drop=0.0)")
    tokens = text(objective.needs(STACK), starts)
    example = objective.example(tokens, np.random.default_rng(0), ODD, STACK)
    expected = slow(tokens, each)
    assert [*example.tokens.tolist(), int(example.targets[-1])] == expected[:97]
    assert len(expected) == 97 if each == "window" else len(expected) > 97 or starts == (0, 9, 10, 40, 95)
    np.testing.assert_array_equal(example.segments[1:] - example.segments[:-1], example.tokens[1:] == START)


def test_the_inner_objective_gets_the_text_with_its_tokens():
    objective = create("control_tokens(span_corruption, threshold=0.5, each='window', drop=0.0)")
    tokens = text(objective.needs(STACK))
    one = objective.example(tokens, np.random.default_rng(3), SPECIALS, STACK)
    generator = np.random.default_rng(3)
    generator.random(1)
    inner = create("span_corruption")
    marked = np.concatenate([[BAD], tokens])
    same(one, inner.example(marked, generator, SPECIALS.reserve(("good", "bad")), STACK))
    assert inner.needs(STACK) == len(marked)


def test_a_share_is_left_out():
    left_out, stretches = 0, 0
    for seed in range(200):
        example = make("control_tokens(causal, threshold=0.5, each='sentence', drop=0.3)", seed=seed, specials=ODD)
        ends = np.flatnonzero(np.isin(example.tokens[:-1], SENTENCE_ENDS))
        stretches += len(ends)
        left_out += np.count_nonzero(example.tokens[ends + 1] < 3000)
    assert within(left_out, stretches, 0.3)
    plain = make("control_tokens(causal, threshold=0.5, drop=1.0)", specials=ODD)
    same(plain, make("causal"))


def test_what_is_missing_is_an_error():
    with pytest.raises(UserError, match="needs a function that scores texts"):
        make("control_tokens(causal, threshold=0.5)", specials=dataclasses.replace(SPECIALS, score=None))
    with pytest.raises(UserError, match="which tokens end a sentence; or use each='document'"):
        make("control_tokens(causal, threshold=0.5)", specials=dataclasses.replace(SPECIALS, sentence_ends=()))


def test_lengths_of_the_inner_objective_hold():
    objective = create("control_tokens(masked_lm, threshold=0.5, each='document')")
    tokens = text(objective.needs(Lengths(32)), range(0, 32, 2))
    assert len(objective.example(tokens, np.random.default_rng(0), SPECIALS, Lengths(32)).tokens) == 32
