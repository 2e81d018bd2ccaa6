"""Hidden tokens: how many, which, by what replaced; and what a discriminator is told."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.errors import UserError
from taxonomy.objectives.masked_lm import MaskedLM, ReplacedTokens, discriminate
from taxonomy.objectives.objective import Lengths, Specials

from .common import END, PAIR, SPECIALS, START, USED, VOCAB, WORD_STARTS, equally_likely, make, text, within

LONG = Lengths(400)
MASK = VOCAB - 1


def test_rates_are_those_asked_for():
    counts = collections.Counter()
    for seed in range(200):
        tokens = text(400, starts=(0, 50, 51, 300))
        example = MaskedLM().example(tokens, np.random.default_rng(seed), SPECIALS, LONG)
        np.testing.assert_array_equal(example.targets, tokens)
        chosen = example.weights > 0
        assert chosen.sum() == round(0.15 * 396)
        assert not chosen[tokens == START].any()
        np.testing.assert_array_equal(example.tokens[~chosen], tokens[~chosen])
        masked, same = example.tokens == MASK, example.tokens == tokens
        counts += collections.Counter(mask=masked[chosen].sum(), same=same[chosen].sum(), chosen=chosen.sum())
        assert (example.tokens[chosen & ~masked] < USED).all()
    assert within(counts["mask"], counts["chosen"], 0.8)
    assert within(counts["same"], counts["chosen"], 0.1 + 0.1 / USED)


def test_replacements_are_any_token():
    objective = MaskedLM(rate=0.9, mask=0.0, random=1.0)
    few = Specials(start=1, vocab=9, used=8)
    generator, drawn = np.random.default_rng(0), collections.Counter()
    for _ in range(50):
        example = objective.example(np.full(100, 5), generator, few, LONG)
        drawn += collections.Counter(example.tokens[example.weights > 0].tolist())
    assert equally_likely(drawn.values(), 8)


def test_every_choice_is_equally_likely():
    objective, generator = MaskedLM(rate=0.4), np.random.default_rng(0)
    drawn = collections.Counter(tuple(objective.example(text(5), generator, SPECIALS, LONG).weights.tolist()) for _ in range(2000))
    assert equally_likely(drawn.values(), 10)


def test_whole_words_are_hidden_whole():
    # Behind what is no text a word begins, whether its first token looks like it or not.
    inner = [place for place in range(50, 350) if not WORD_STARTS[10 + place + 1] and not WORD_STARTS[10 + place + 2]]
    tokens = text(400, starts=(0, inner[0]))
    tokens[inner[-1]] = END
    # The words, one token at a time.
    words, current = [], None
    for place, token in enumerate(tokens):
        if token in (START, END):
            current = None
            continue
        if current is None or WORD_STARTS[token]:
            current = []
            words.append(current)
        current.append(place)
    assert 100 < len(words) < 250
    chosen_words, apart = collections.Counter(), 0
    after = next(i for i, word in enumerate(words) if word[0] > inner[0])
    for seed in range(300):
        example = make("masked_lm(whole_words=True)", tokens, seed=seed, lengths=LONG)
        chosen = example.weights > 0
        whole = [chosen[word].all() for word in words]
        assert all(w or not chosen[word].any() for w, word in zip(whole, words, strict=True))
        assert chosen.sum() == sum(len(word) for w, word in zip(whole, words, strict=True) if w)
        assert 0.15 * 397 - 8 < chosen.sum() <= round(0.15 * 397)
        chosen_words.update(np.flatnonzero(whole).tolist())
        apart += whole[after] != whole[after - 1]
    assert len(chosen_words) == len(words) and apart > 20


def test_whole_words_need_a_table():
    with pytest.raises(UserError, match="whole_words needs a tokenizer that knows which tokens begin a word"):
        make("masked_lm(whole_words=True)", specials=Specials(start=1, vocab=VOCAB, used=USED))


def test_a_generator_sees_masks_only():
    for seed in range(20):
        example = make("replaced_tokens", seed=seed, lengths=LONG)
        chosen = example.weights > 0
        assert chosen.sum() == 60 and (example.tokens[chosen] == MASK).all()
        # A mean over all tokens that counts 50 times a mean over the masked ones.
        assert example.detection.dtype == np.float32 and np.unique(example.detection).size == 1
        np.testing.assert_allclose(example.detection.sum(), 50 * example.weights.sum(), rtol=1e-6)
    assert ReplacedTokens(rate=0.25).example(text(400), np.random.default_rng(0), SPECIALS, LONG).weights.sum() == 100


@pytest.mark.parametrize("namespace", [np, jnp])
def test_a_discriminator_is_told_what_differs(namespace):
    generator = np.random.default_rng(0)
    tokens, sampled = generator.integers(0, 4, (3, 50)), generator.integers(0, 4, (3, 50))
    masked = generator.random((3, 50)) < 0.4
    read, replaced = discriminate(*map(namespace.asarray, (tokens, sampled, masked)))
    for row in range(3):
        for place in range(50):
            hidden = masked[row, place]
            assert read[row, place] == (sampled if hidden else tokens)[row, place]
            assert replaced[row, place] == (hidden and sampled[row, place] != tokens[row, place])
    assert 0 < np.asarray(replaced).sum() < masked.sum()


class TestRandomPivot:
    lengths = PAIR

    def test_the_text_around_the_pivot_is_kept(self):
        tokens = text(self.lengths.inputs + self.lengths.context)
        pivots = collections.Counter()
        for seed in range(1000):
            example = make("random_pivot", seed=seed, lengths=self.lengths)
            whole = np.concatenate([example.input_targets, example.targets])
            first = int(whole[0]) - 10
            np.testing.assert_array_equal(whole, tokens[first : first + len(whole)])
            pivot = first + len(example.inputs)
            pivots[pivot * 8 // len(tokens)] += 1
            # As much as there is room for on both sides.
            assert len(example.inputs) == min(pivot, self.lengths.inputs)
            assert len(example.targets) == min(len(tokens) - pivot, self.lengths.context)
            assert example.weights.all() and example.tokens[1:].tolist() == example.targets[:-1].tolist()
            hidden = example.input_weights > 0
            assert hidden.sum() == max(1, round(0.15 * len(example.inputs)))
            np.testing.assert_array_equal(example.inputs[~hidden], example.input_targets[~hidden])
        assert equally_likely(pivots.values(), 8)
