"""Beam search where all texts can be listed, and its rules by hand; against transformers it is tested in `parity`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.inference import beams

VOCAB = 6


@pytest.fixture(scope="module")
def small(random_params):
    config = config_lib.load_config("gpt3:tiny", {"model.decoder": "dense + banded"})
    parsed = spec.model(config.model)
    return parsed, random_params(model_lib.build(parsed), jnp.zeros((1, 8), jnp.int32))


def test_the_best_of_all_texts_of_two_tokens(small):
    """With as many beams as tokens nothing is lost; prompts are ragged."""
    model_spec, params = small
    prompts = [[5, 1, 3], [2]]
    texts = [list(text) for text in itertools.product(range(VOCAB), repeat=2)]
    forward = jax.jit(lambda tokens: model_lib.build(model_spec).apply({"params": params}, tokens)[..., :VOCAB])
    found = beams.search(*small, prompts, beams=VOCAB, max_new_tokens=2, length_penalty="gnmt(0.6)", vocab_size=VOCAB)
    for prompt, best in zip(prompts, found, strict=True):
        log = np.asarray(jax.nn.log_softmax(forward(np.array([prompt + text for text in texts])), axis=-1))
        n = len(prompt)
        scores = [(log[i, n - 1, a] + log[i, n, b]) / (7 / 6) ** 0.6 for i, (a, b) in enumerate(texts)]
        order = np.argsort(scores)[::-1][:VOCAB]
        assert [one.tokens for one in best] == [texts[i] for i in order]
        np.testing.assert_allclose([one.score for one in best], np.array(scores)[order], rtol=1e-4)


@pytest.mark.parametrize("family", ["gemma3", "glm130b", "deepseek_v3", "t5"])
def test_scores_are_those_of_the_full_forward(family, tiny):
    """Caches follow the texts that they belong to, of every kind: with a window, after a prefix, latent, beside an encoder."""
    one, prompts, new = tiny(family), [[5, 1, 3], [2]], 12
    inputs = [[7, 8, 9, 10], [11, 12]] if len(one.spec.stacks) > 1 else None
    found = beams.search(one.spec, one.params, prompts, beams=3, max_new_tokens=new, length_penalty="power(0)", inputs=inputs)
    forward = jax.jit(lambda tokens, others: one.model().apply({"params": one.params}, tokens=tokens, **others))
    for i, (prompt, best) in enumerate(zip(prompts, found, strict=True)):
        tokens = np.array([prompt + text.tokens for text in best])
        assert len(set(map(tuple, tokens.tolist()))) == 3 and tokens.shape[1] == len(prompt) + new
        others = {} if inputs is None else {"inputs": np.array([inputs[i]] * 3)}
        if one.spec.prefixed:
            others["prefix"] = np.broadcast_to(np.arange(tokens.shape[1]) < len(prompt), tokens.shape)
        log = jax.nn.log_softmax(forward(tokens, others), axis=-1)[:, len(prompt) - 1 : -1]
        scores = np.take_along_axis(np.asarray(log), tokens[:, len(prompt) :, None], axis=2)[..., 0].sum(1)
        np.testing.assert_allclose([text.score for text in best], scores, rtol=1e-4, atol=1e-4)


def test_length_penalties():
    """(5 + 13) / 6 is 3."""
    penalty = lambda sentence: registry.create("length_penalty", sentence, "length_penalty")  # noqa: E731
    assert penalty("gnmt(2)")(13.0) == pytest.approx(9.0) and penalty("gnmt(0.5)")(1.0) == 1.0
    assert penalty("power(0.5)")(16.0) == 4.0 and penalty("power(0)")(16.0) == 1.0
    assert [penalty(s).rises for s in ("gnmt(0.6)", "gnmt(0)", "power(1)", "power(-1)")] == [True, False, True, False]


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"beams": 0}, "beams: must be at least 1"),
        ({"beams": 6, "stop_token": 3}, "beams: must be at least 1 and at most 5, the tokens that go on, got 6"),
        ({"length_penalty": "wu(1)"}, "length_penalty: unknown length_penalty 'wu'"),
        ({"early_stopping": "soon"}, "early_stopping: must be True, False or 'never', got 'soon'"),
        ({"early_stopping": 1}, "early_stopping: must be True, False or 'never', got 1"),
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1"),
    ],
)
def test_bad_input(small, how, complaint):
    with pytest.raises(UserError, match=complaint):
        beams.search(*small, [[1]], **{"beams": 2, "max_new_tokens": 4, "vocab_size": VOCAB, **how})


def test_no_prompts(small):
    assert beams.search(*small, [], beams=2, max_new_tokens=4) == []
