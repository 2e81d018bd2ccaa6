"""Likelihoods of continuations are those of the model asked one text at a time, for every structure."""

import jax
import numpy as np
import pytest

from taxonomy.errors import UserError
from taxonomy.inference import likelihood
from taxonomy.inference.likelihood import Continuation, likelihoods


def drawn(generator, vocab, *lengths):
    return [Continuation(*(generator.integers(0, vocab, n).tolist() for n in pair)) for pair in lengths]


def alone(model, params, pair, start):
    """The sum over what follows of log softmax, of a text by itself."""
    given, following = pair
    if len(model.spec.stacks) > 1:
        logits = model.apply({"params": params}, np.array([given]), np.array([[start, *following[:-1]]]))
    else:
        others = {"prefix": np.arange(len(given) + len(following) - 1)[None] < len(given)} if model.spec.prefixed else {}
        logits = model.apply({"params": params}, np.array([[*given, *following[:-1]]]), **others)
    said = np.asarray(jax.nn.log_softmax(logits[0], -1))[-len(following) :]
    return said[np.arange(len(following)), following].sum(), bool((said.argmax(-1) == following).all())


@pytest.mark.parametrize("family", ["mixtral", "glm130b", "t5"])
def test_as_one_text_at_a_time(family, tiny):
    """A decoder, experts, an encoder-decoder or prefixes, positions of several kinds; several batches."""
    one = tiny(family)
    model, generator = one.model(), np.random.default_rng(0)
    pairs = drawn(generator, one.spec.vocab, (1, 1), (9, 4), (20, 1), (3, 17), (40, 2), (2, 2), (5, 4))
    heard = []
    options = {"start": 3, "batch_tokens": 64, "told": lambda done, of: heard.append((done, of))}
    found = likelihoods(one.spec, one.params, pairs, **options)
    expected = [alone(model, one.params, pair, 3) for pair in pairs]
    np.testing.assert_allclose([one.logarithm for one in found], [score for score, _ in expected], atol=2e-4, rtol=1e-5)
    assert [one.greedy for one in found] == [greedy for _, greedy in expected]
    assert len(heard) > 2 and heard[-1] == (7, 7)


def test_the_beginning_goes_where_all_does_not_fit(tiny):
    one = tiny("llama")
    most = likelihood.longest(one.spec)
    (long,) = drawn(np.random.default_rng(0), one.spec.vocab, (most + 9, 5))
    whole, kept = likelihoods(one.spec, one.params, [long, Continuation(long.given[-(most - 4) :], long.following)], start=0)
    assert whole == kept
    with pytest.raises(UserError, match=rf"--tasks: {most + 1} tokens follow 1; allowed are 1 to {most}"):
        likelihoods(one.spec, one.params, drawn(np.random.default_rng(0), one.spec.vocab, (1, most + 1)), start=0)


def test_an_encoder_is_refused(tiny):
    with pytest.raises(UserError, match="the model is an encoder"):
        likelihoods(tiny("bert").spec, {}, [Continuation([1], [2])], start=0)
