"""Samplers against hand-made distributions, a plain sort, and counted draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError

PROBABILITIES = np.array([0.1, 0.5, 0.15, 0.25], np.float32)
SENTENCES = ("greedy", "temperature(0.7)", "top_k(3)", "top_k(k=2, temperature=1.5)", "top_p(0.8)", "top_p(0.6, temperature=0.5)")


def sampler(sentence):
    return registry.create("sampler", sentence, "sampler")


def kept(sentence, probabilities):
    """The tokens a sampler allows for one row of probabilities."""
    filtered = sampler(sentence).filter(jnp.log(jnp.asarray([probabilities])))[0]
    return set(np.flatnonzero(np.isfinite(filtered)).tolist())


def test_every_sampler_is_tested():
    assert {entry.name for entry in registry.entries("sampler")} == {sentence.partition("(")[0] for sentence in SENTENCES}


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("greedy", {1}),
        ("temperature(0.1)", {0, 1, 2, 3}),
        ("top_k(1)", {1}),
        ("top_k(2)", {1, 3}),
        ("top_k(100)", {0, 1, 2, 3}),
        ("top_p(1e-6)", {1}),
        ("top_p(0.49)", {1}),
        ("top_p(0.51)", {1, 3}),
        ("top_p(0.74)", {1, 3}),
        ("top_p(0.76)", {1, 2, 3}),
        ("top_p(0.99)", {0, 1, 2, 3}),
        ("top_p(1.0)", {0, 1, 2, 3}),
        # 0.5 squared over the sum of squares is 0.72: sharpening comes first.
        ("top_p(0.7, temperature=0.5)", {1}),
    ],
)
def test_what_is_kept(sentence, tokens):
    assert kept(sentence, PROBABILITIES) == tokens


@pytest.mark.parametrize(("sentence", "count"), [("greedy", 1), ("top_k(3)", 3), ("top_p(0.3)", 3), ("top_p(0.2)", 2)])
def test_among_equals_the_first_are_kept(sentence, count):
    assert kept(sentence, np.full(8, 0.125, np.float32)) == set(range(count))


@pytest.mark.parametrize("p", [0.05, 0.9])
def test_nucleus_equals_the_one_found_by_sorting(p):
    logits = 3 * np.random.default_rng(0).standard_normal((16, 501)).astype(np.float32)
    filtered = sampler(f"top_p({p})").filter(jnp.asarray(logits))
    for row, result in zip(logits.astype(np.float64), np.asarray(filtered), strict=True):
        order = np.argsort(-row)
        probability = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        count = int((np.cumsum(probability[order]) < p).sum()) + 1
        assert set(np.flatnonzero(np.isfinite(result))) == set(order[:count])


@pytest.mark.parametrize("sentence", SENTENCES)
def test_draws_follow_the_filtered_distribution(sentence):
    draws = 20_000
    one = sampler(sentence)
    logits = jnp.log(jnp.asarray(PROBABILITIES))
    tokens = jax.jit(one.sample)(jax.random.key(1), jnp.broadcast_to(logits, (draws, 4)))
    assert tokens.dtype == jnp.int32
    expected = np.asarray(jax.nn.softmax(one.filter(logits[None])[0]))
    found = np.bincount(tokens, minlength=4) / draws
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / draws**0.5)


def test_temperature_divides_logits():
    np.testing.assert_allclose(sampler("temperature(2.0)").filter(jnp.array([[1.0, -3.0]])), [[0.5, -1.5]])


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_is_ruled_out_stays_so(sentence):
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf, -40.0]] * 64)
    assert set(sampler(sentence).sample(jax.random.key(0), logits).tolist()) <= {1, 3}
    assert np.isneginf(sampler(sentence).filter(logits)[:, [0, 2]]).all()


def test_rows_and_keys_are_independent():
    one, logits = sampler("temperature(1.0)"), jnp.zeros((64, 1000))
    first, second = one.sample(jax.random.key(0), logits), one.sample(jax.random.key(1), logits)
    assert len(set(first.tolist())) > 32
    assert (first != second).mean() > 0.9
    np.testing.assert_array_equal(first, one.sample(jax.random.key(0), logits))


@pytest.mark.parametrize(
    ("sentence", "complaint"),
    [
        ("temperature(0)", "temperature=0.0 must be above 0"),
        ("top_k(0)", "k=0 must be at least 1"),
        ("top_k(5, temperature=-1)", "temperature=-1.0 must be above 0"),
        ("top_p(0)", "p=0.0 must be above 0"),
        ("top_p(1.01)", "p=1.01 must be above 0 and at most 1"),
        ("top_k(0.5)", "not a whole number"),
        ("top_q(0.5)", "did you mean 'top_"),
        ("top_p", "needs the argument 'p'"),
    ],
)
def test_impossible_samplers(sentence, complaint):
    with pytest.raises(UserError, match="sampler") as e:
        sampler(sentence)
    assert complaint in str(e.value)
