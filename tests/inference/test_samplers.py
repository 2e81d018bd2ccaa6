"""Samplers against hand-made distributions, a plain sort, transformers' processors of logits, and counted draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.inference.samplers import Counts

PROBABILITIES = np.array([0.1, 0.5, 0.15, 0.25], np.float32)
SENTENCES = (
    "greedy",
    "temperature(0.7)",
    "top_k(3)",
    "top_k(k=2, temperature=1.5)",
    "top_p(0.8)",
    "top_p(0.6, temperature=0.5)",
    "min_p(0.25)",
    "typical(0.5, temperature=0.9)",
    "tail_free(0.9)",
    "repetition(1.5)",
    "frequency(0.4, prompt=True)",
    "presence(-0.5)",
    "logit_bias(tokens=(3, 1), biases=(0.5, -1))",
    "banned((0, 2))",
    "chain(banned(2), repetition(1.2), temperature(0.8), top_k(3), top_p(0.9))",
    "chain(presence(9), greedy)",
)
# Of the four tokens, how often each was said in the prompt and since.
PROMPT, NEW = [2, 0, 0, 1], [0, 1, 0, 3]


def sampler(sentence):
    return registry.create("sampler", sentence, "sampler")


def counts(rows=1, prompt=PROMPT, new=NEW):
    return Counts(*(jnp.tile(jnp.array(said), (rows, 1)) for said in (prompt, new)))


def filtered(sentence, logits):
    """One row of logits after a sampler's filter."""
    return np.asarray(sampler(sentence).filter(jnp.asarray([logits], jnp.float32), counts())[0])


def kept(sentence, probabilities):
    """The tokens a sampler allows for one row of probabilities."""
    with np.errstate(divide="ignore"):
        return set(np.flatnonzero(np.isfinite(filtered(sentence, np.log(probabilities)))).tolist())


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
        # 0.5, 0.25, 0.15, 0.1: shares of 0.5.
        ("min_p(1.0)", {1}),
        ("min_p(0.51)", {1}),
        ("min_p(0.49)", {1, 3}),
        ("min_p(0.29)", {1, 2, 3}),
        ("min_p(0.001)", {0, 1, 2, 3}),
        # Surprises 2.303, 0.693, 1.897, 1.386; the entropy is 1.208, so distances are 1.095, 0.515, 0.689, 0.178.
        ("typical(0.01)", {3}),
        ("typical(0.24)", {3}),
        ("typical(0.26)", {1, 3}),
        ("typical(0.74)", {1, 3}),
        ("typical(0.76)", {1, 2, 3}),
        ("typical(0.91)", {0, 1, 2, 3}),
        # Differences 0.25, 0.1, 0.05; bends 0.15 and 0.05, which are 3/4 and 1/4 of all.
        ("tail_free(0.01)", {1}),
        ("tail_free(0.74)", {1}),
        ("tail_free(0.76)", {1}),
        ("tail_free(0.99)", {1}),
        ("tail_free(1.0)", {0, 1, 2, 3}),
        ("banned((1, 3))", {0, 2}),
        ("chain(banned(1), top_k(2))", {2, 3}),
        ("chain(top_k(3), min_p(0.4))", {1, 3}),
        # The order counts: of three tokens left 0.5 is more than half, of four it is half.
        ("chain(top_k(3), top_p(0.55))", {1}),
        ("chain(top_p(0.55), top_k(3))", {1, 3}),
        ("chain(temperature(0.5), top_p(0.7))", {1}),
        ("chain(top_p(0.7), temperature(0.5))", {1, 3}),
    ],
)
def test_what_is_kept(sentence, tokens):
    assert kept(sentence, PROBABILITIES) == tokens


@pytest.mark.parametrize(
    ("z", "tokens"),
    [
        # Sorted 0.4, 0.3, 0.2, 0.06, 0.04: differences 0.1, 0.1, 0.14, 0.02; bends 0, 0.04, 0.12: of all 0, 1/4, 3/4.
        (0.2, {1}),
        (0.24, {1}),
        # Beyond at the third bend: two tokens stay.
        (0.3, {1, 4}),
        (0.9, {1, 4}),
        (1.0, {0, 1, 2, 3, 4}),
    ],
)
def test_the_tail_begins_where_the_curve_has_bent(z, tokens):
    probabilities = jnp.array([[0.06, 0.4, 0.2, 0.04, 0.3]])
    found = sampler(f"tail_free({z})").filter(jnp.log(probabilities))
    assert set(np.flatnonzero(np.isfinite(found[0])).tolist()) == tokens


def test_penalties_by_hand():
    logits = [1.0, -2.0, 0.5, -1.0]
    expected = {
        "repetition(2.0)": [0.5, -4.0, 0.5, -2.0],
        "repetition(2.0, prompt=False)": [1.0, -4.0, 0.5, -2.0],
        "repetition(0.5)": [2.0, -1.0, 0.5, -0.5],
        "frequency(0.5)": [1.0, -2.5, 0.5, -2.5],
        "frequency(0.5, prompt=True)": [0.0, -2.5, 0.5, -3.0],
        "presence(0.5)": [1.0, -2.5, 0.5, -1.5],
        "presence(-0.5, prompt=True)": [1.5, -1.5, 0.5, -0.5],
        "logit_bias(tokens=(3, 0), biases=(2, -0.5))": [0.5, -2.0, 0.5, 1.0],
        "chain(frequency(0.5), presence(1.0), temperature(0.5))": [2.0, -7.0, 1.0, -7.0],
    }
    for sentence, values in expected.items():
        np.testing.assert_allclose(filtered(sentence, logits), values, err_msg=sentence)
        assert sampler(sentence).counted != sentence.startswith("logit_bias")


@pytest.mark.parametrize(
    ("sentence", "processors"),
    [
        ("temperature(0.7)", [theirs.TemperatureLogitsWarper(0.7)]),
        ("top_k(7)", [theirs.TopKLogitsWarper(7)]),
        ("top_p(0.8)", [theirs.TopPLogitsWarper(0.8)]),
        ("min_p(0.1)", [theirs.MinPLogitsWarper(0.1)]),
        ("typical(0.3)", [theirs.TypicalLogitsWarper(0.3)]),
        ("typical(0.95)", [theirs.TypicalLogitsWarper(0.95)]),
        ("repetition(1.3)", [theirs.RepetitionPenaltyLogitsProcessor(1.3)]),
        ("repetition(1.3, prompt=False)", [theirs.RepetitionPenaltyLogitsProcessor(1.3, prompt_ignore_length=9)]),
        ("logit_bias(tokens=(5, 17), biases=(2, -3))", [theirs.SequenceBiasLogitsProcessor([[[5], 2.0], [[17], -3.0]])]),
        ("banned((5, 17))", [theirs.SuppressTokensLogitsProcessor([5, 17])]),
        (
            "chain(repetition(1.3), banned(5), temperature(0.7), top_k(20), top_p(0.8), typical(0.9))",
            [
                theirs.RepetitionPenaltyLogitsProcessor(1.3),
                theirs.SuppressTokensLogitsProcessor([5]),
                theirs.TemperatureLogitsWarper(0.7),
                theirs.TopKLogitsWarper(20),
                theirs.TopPLogitsWarper(0.8),
                theirs.TypicalLogitsWarper(0.9),
            ],
        ),
    ],
)
def test_filters_are_those_of_transformers(sentence, processors):
    generator = np.random.default_rng(0)
    logits = 3 * generator.standard_normal((16, 101)).astype(np.float32)
    # Nine tokens of prompt and eleven more.
    said = generator.integers(0, 101, (16, 20))
    one_hot = np.eye(101, dtype=np.int32)[said]
    found = sampler(sentence).filter(jnp.asarray(logits), Counts(one_hot[:, :9].sum(1), one_hot[:, 9:].sum(1)))
    expected = torch.tensor(logits)
    for processor in processors:
        expected = processor(torch.tensor(said), expected)
    assert not np.array_equal(expected, logits)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("sentence", "count"), [("greedy", 1), ("top_k(3)", 3), ("top_p(0.3)", 3), ("top_p(0.2)", 2)])
def test_among_equals_the_first_are_kept(sentence, count):
    assert kept(sentence, np.full(8, 0.125, np.float32)) == set(range(count))


def test_a_uniform_distribution_is_all_typical_and_bends_nowhere():
    probabilities = np.full(8, 0.125, np.float32)
    assert kept("typical(0.2)", probabilities) == set(range(8))
    # Six bends of equal share: the fourth is the first beyond a half.
    assert kept("tail_free(0.51)", probabilities) == {0, 1, 2}


@pytest.mark.parametrize("p", [0.05, 0.9])
def test_nucleus_equals_the_one_found_by_sorting(p):
    logits = 3 * np.random.default_rng(0).standard_normal((16, 501)).astype(np.float32)
    found = sampler(f"top_p({p})").filter(jnp.asarray(logits))
    for row, result in zip(logits.astype(np.float64), np.asarray(found), strict=True):
        order = np.argsort(-row)
        probability = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        count = int((np.cumsum(probability[order]) < p).sum()) + 1
        assert set(np.flatnonzero(np.isfinite(result))) == set(order[:count])


@pytest.mark.parametrize("sentence", SENTENCES)
def test_draws_follow_the_filtered_distribution(sentence):
    draws = 20_000
    one = sampler(sentence)
    logits = jnp.log(jnp.asarray(PROBABILITIES))
    tokens = jax.jit(one.sample)(jax.random.key(1), jnp.broadcast_to(logits, (draws, 4)), counts(draws))
    assert tokens.dtype == jnp.int32
    expected = np.asarray(jax.nn.softmax(one.filter(logits[None], counts())[0]))
    found = np.bincount(tokens, minlength=4) / draws
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / draws**0.5)


def test_temperature_divides_logits():
    np.testing.assert_allclose(sampler("temperature(2.0)").filter(jnp.array([[1.0, -3.0]])), [[0.5, -1.5]])


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_is_ruled_out_stays_so(sentence):
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf, -40.0]] * 64)
    assert set(sampler(sentence).sample(jax.random.key(0), logits, counts(64)).tolist()) <= {1, 3}
    assert np.isneginf(sampler(sentence).filter(logits, counts(64))[:, [0, 2]]).all()


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
        ("min_p(1.5)", "min_p: p=1.5 must be above 0 and at most 1"),
        ("typical(0)", "typical: p=0.0 must be above 0 and at most 1"),
        ("tail_free(-0.1)", "tail_free: z=-0.1 must be above 0 and at most 1"),
        ("typical(0.5, temperature=0)", "temperature=0.0 must be above 0"),
        ("repetition(0)", "repetition: penalty=0.0 must be above 0"),
        ("frequency", "needs the argument 'penalty'"),
        ("logit_bias(tokens=(1, 2), biases=(1,))", "biases=(1.0,) must be as many as tokens=(1, 2)"),
        ("logit_bias(tokens=(1, 1), biases=(1, 2))", "tokens=(1, 1) must be at least one token, none negative, none twice"),
        ("banned(())", "tokens=() must be at least one token"),
        ("banned((1, -2))", "none negative"),
        ("chain()", "chain needs the argument 'parts'"),
        ("chain(top_k(2), banned(1))", "banned must stand before top_k, after which it could leave no token"),
        ("chain(chain(top_k(2)), temperature(0.5), chain(banned(1)))", "chain must stand before chain"),
        ("chain(top_k(2), top_q(1))", "did you mean 'top_"),
    ],
)
def test_impossible_samplers(sentence, complaint):
    with pytest.raises(UserError, match="sampler") as e:
        sampler(sentence)
    assert complaint in str(e.value)
