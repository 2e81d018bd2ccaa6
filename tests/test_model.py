"""Whole models: what `build` gives, and what a fresh model is like."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.layers.params import ROLES, Declared
from taxonomy.model import Execution, Transformer, build, example_batch


def shapes(model, tokens):
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]


def test_a_model_is_built_from_a_section_or_its_parse(family, tiny):
    one = tiny(family)
    assert build(one.config.model) == build(one.spec) == Transformer(one.spec)
    assert build(one.spec, remat="full").execution == Execution(remat="full")
    with pytest.raises(TypeError, match="rematt"):
        build(one.spec, rematt="full")


def test_an_example_batch_is_what_a_model_reads(family, tiny):
    one = tiny(family)
    batch = example_batch(one.config)
    logits = jax.eval_shape(lambda: one.model().apply({"params": one.params}, **batch))
    assert logits.shape == (*batch["tokens"].shape, one.spec.vocab) and logits.dtype == jnp.float32
    assert batch["tokens"].shape[1] <= one.spec.context


def test_execution_does_not_change_the_parameters(family, tiny):
    one = tiny(family)
    tokens = np.zeros((1, 8), np.int32)
    expected = shapes(one.model(), tokens)
    for execution in (dict(dtype="bfloat16"), dict(remat="full"), dict(attention="reference"), dict(loss_chunk=1)):
        found = shapes(one.model(**execution), tokens)
        assert jax.tree.structure(found) == jax.tree.structure(expected), execution
        assert jax.tree.leaves(found) == jax.tree.leaves(expected), execution


def test_every_parameter_is_declared(family, tiny):
    one = tiny(family)
    boxes = jax.tree.leaves(shapes(one.model(), np.zeros((1, 8), np.int32)), is_leaf=lambda leaf: isinstance(leaf, Declared))
    for box in boxes:
        assert isinstance(box, Declared) and box.role in ROLES and box.value.dtype == jnp.float32
        assert len(box.names) == box.value.ndim


def test_a_fresh_model_guesses(family, tiny):
    """Its logits are like independent normal draws s, so that its loss is log(vocab) + s^2 / 2.

    A tied head adds to this that each token is similar to itself, which is left out here.
    """
    one = tiny(family)
    vocab = one.spec.vocab
    tokens = np.random.default_rng(0).integers(0, vocab, (4, 48), dtype=np.int32)

    @jax.jit
    def start(key):
        boxed = one.model().init(key, tokens)
        return boxed["params"], one.model().apply(boxed, tokens)

    params, logits = start(jax.random.key(0))
    others = logits[np.arange(vocab) != tokens[..., None]].reshape(*tokens.shape, vocab - 1)
    spread = float(others.std())
    assert 0.03 < spread < 1.2 and abs(others.mean()) < 0.1
    loss = float(jax.nn.logsumexp(others, -1).mean() - others.mean())
    assert loss == pytest.approx(math.log(vocab - 1) + spread**2 / 2, abs=0.05)

    again, _ = start(jax.random.key(0))
    different, _ = start(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    is_box = lambda leaf: isinstance(leaf, Declared)  # noqa: E731
    for first, second in zip(*(jax.tree.leaves(tree, is_leaf=is_box) for tree in (params, different)), strict=True):
        assert np.array_equal(first.value, second.value) == (first.role in ("gain", "bias", "selection"))


def test_weights_default_to_one(tiny, packed):
    one = tiny("gpt2")
    batch = packed(one.spec.vocab, time=16, longest=8)
    tokens, positions, segments = batch.inputs()

    @jax.jit
    def loss(*weights):
        arguments = (tokens, batch.targets, positions, segments, *weights)
        return one.model().apply({"params": one.params}, *arguments, method="loss")

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), loss(), loss(np.ones_like(batch.weights)))
    half = loss(batch.weights)
    assert half.weight.sum() == batch.weights.sum() < loss().weight.sum() == batch.weights.size
