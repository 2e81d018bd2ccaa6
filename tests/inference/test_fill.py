"""Gaps in texts: asked for as they were learned, and filled."""

import jax
import numpy as np
import pytest
from training.common import trainer_of

from taxonomy import config as config_lib
from taxonomy import registry, spec
from taxonomy.data.examples import Examples
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import decode, fill
from taxonomy.objectives.objective import Lengths, Specials

TOKENIZER = BytesTokenizer()
START = END = TOKENIZER.document_start


def configured(objective, **overrides):
    return config_lib.load_config("llama:tiny", {"train.objective": objective, "data.tokenizer": "bytes()", **overrides})


def specials(config):
    vocab = spec.model(config.model).vocab
    return Specials(START, vocab, TOKENIZER.vocab_size, END, decode=TOKENIZER.decode, encode=TOKENIZER.encode)


@pytest.mark.parametrize(
    "sentence",
    [
        "fill_in_the_middle(rate=1.0, spm=0.0)",
        "fill_in_the_middle(rate=1.0, spm=1.0)",
        "fill_in_the_middle(rate=1.0, spm=1.0, spm_order='plain')",
        "mixture(causal, mode(causal, token='x'), fill_in_the_middle(rate=1.0, spm=0.0), weights=(0, 0, 1))",
    ],
)
def test_a_gap_is_shown_as_the_objective_shows_it(sentence):
    """To the token, whatever the objective made of the document before the middle, which the end follows."""
    config = configured(sentence)
    objective, text = registry.create("objective", sentence, "objective"), "naïve Ωmega"
    tokens = np.append(START, TOKENIZER.encode(text))
    for seed in range(20):
        example = objective.example(tokens, np.random.default_rng(seed), specials(config), Lengths(64))
        sequence = [*example.tokens.tolist(), int(example.targets[-1])]
        # The cut is wherever the rows agree: there is one place for the middle, which stands last.
        cuts = [(text[:i], text[i:j], text[j:]) for i in range(len(text) + 1) for j in range(i, len(text) + 1)]
        before, middle, after = zip(*cuts, strict=True)
        rows = fill.rows(config, TOKENIZER, before, after)
        whole = [[*row, *TOKENIZER.encode(part).tolist(), END] for row, part in zip(rows, middle, strict=True)]
        assert sequence in whole


def test_a_model_that_learned_to_fill_gaps_fills_them():
    """Eight letters in a ring: the middle goes from the last letter of the prefix to the first of the suffix."""
    config = configured("fill_in_the_middle(rate=1.0)", **{"model.vocab": 272})
    generator, ring = np.random.default_rng(0), "abcdefgh" * 3
    texts = [ring[i : i + n] for i, n in zip(generator.integers(0, 8, 4000), generator.integers(4, 9, 4000), strict=True)]
    tokens = np.concatenate([np.append(START, TOKENIZER.encode(text)) for text in texts])
    objective = registry.create("objective", config.train.objective, "objective")
    examples = Examples(tokens, objective, specials(config), Lengths(32), seed=0)
    trainer = trainer_of(spec.model(config.model), "adamw(b1=0.9, b2=0.98)", 1.0)
    state = trainer.init(0)
    for step in range(200):
        rate = 4e-3 * min(1.0, (step + 1) / 20, 2 * (1 - step / 200))
        state, _ = trainer.step(state, trainer.put(examples.batch(16 * step, 16)), rate)
    gaps = {("ab", "ef"): "cd", ("gh", "b"): "a", ("c", "fg"): "de", ("fg", "cd"): "hab"}
    prompts, suffixes = zip(*gaps, strict=True)
    how = {"tokenizer": TOKENIZER, "suffixes": suffixes, "max_new_tokens": 8}
    params = jax.device_get(state.params)
    assert decode.generate(config, params, prompts, **how) == list(gaps.values())
    assert decode.generate(config, params, prompts, **how, beams=2) == list(gaps.values())


@pytest.mark.parametrize("objective", ["causal", "fill_in_the_middle(rate=0)", "mixture(causal, causal)"])
def test_a_model_that_did_not_learn_it_is_refused(objective):
    with pytest.raises(UserError, match="suffixes: only for a model that learned fill_in_the_middle, not"):
        decode.generate(configured(objective), {}, ["a"], tokenizer=TOKENIZER, suffixes=["b"])


def test_every_prompt_has_a_suffix():
    with pytest.raises(UserError, match="suffixes: needs one a prompt, 2, got 1"):
        decode.generate(configured("fill_in_the_middle"), {}, ["a", "b"], tokenizer=TOKENIZER, suffixes=["c"])
