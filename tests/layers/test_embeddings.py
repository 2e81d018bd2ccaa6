"""Token embeddings and heads: the two ends of a model."""

import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry, spec
from taxonomy.layers.context import Context
from taxonomy.ops import cross_entropy

SCALARS = {"vocab": 11, "d_model": 6, "context": 5}
KEYS = {"position": "none", "initializer": "normal(std=1)", "norm": "rmsnorm(eps=1e-5)"}
TOKENS = np.asarray([[3, 0, 10, 3, 3], [1, 2, 3, 4, 5]])
CONTEXT = Context(jnp.broadcast_to(jnp.arange(5), (2, 5)))


def part(kind: str, sentence: str, **keys: str):
    return registry.instantiate(spec.resolve(sentence, (kind,), spec.Scope(kind, SCALARS, {**KEYS, **keys})))


@pytest.mark.parametrize("scale", [1.0, 6**0.5])
def test_a_table_looks_up_and_scales(scale, random_params):
    module = part("embedding", f"table(scale={scale})")
    params = random_params(module, TOKENS, CONTEXT, jnp.float32)
    found = module.apply({"params": params}, TOKENS, CONTEXT, jnp.float32)
    np.testing.assert_allclose(found, np.asarray(params["table"])[TOKENS] * scale, rtol=1e-6)


def test_positions_are_added_before_the_norm(random_params):
    module = part("embedding", "table(scale=2, norm=norm)", position="learned")
    params = random_params(module, TOKENS, CONTEXT, jnp.float32)
    assert params["positions"]["table"].shape == (5, 6)
    x = np.asarray(params["table"])[TOKENS] * 2 + np.asarray(params["positions"]["table"])[None]
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(params["table_norm"]["scale"])
    np.testing.assert_allclose(module.apply({"params": params}, TOKENS, CONTEXT, jnp.float32), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["none", "learned", "sinusoidal"])
def test_embeddings_take_the_compute_dtype(position, random_params):
    module = part("embedding", "table(norm=norm, scale=1.5)", position=position)
    params = random_params(module, TOKENS, CONTEXT, jnp.float32)
    assert module.apply({"params": params}, TOKENS, CONTEXT, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "sentence",
    ["tied", "tied(scale=0.25)", "tied(bias=True, softcap=3)", "untied", "untied(bias=True, scale=2)", "untied(softcap=0.5)"],
)
def test_heads_project_to_the_vocabulary(sentence, random_params):
    module = part("head", sentence)
    table_VD = np.random.default_rng(1).standard_normal((11, 6)).astype(np.float32)
    x_BTD = np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)
    params = random_params(module, x_BTD, table_VD)
    assert set(params) == {name for name, given in (("kernel", "untied"), ("bias_V", "bias")) if given in sentence}
    kernel = np.asarray(params.get("kernel", table_VD))
    y = x_BTD @ kernel.T * module.scale + np.asarray(params.get("bias_V", 0))
    expected = y if module.softcap is None else module.softcap * np.tanh(y / module.softcap)
    found = cross_entropy.logits(*module.apply({"params": params}, jnp.asarray(x_BTD), table_VD))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    half = cross_entropy.logits(*module.apply({"params": params}, jnp.asarray(x_BTD, jnp.bfloat16), table_VD))
    assert half.dtype == jnp.float32


def test_narrow_embeddings_are_projected_to_the_model_and_back(random_params):
    """OPT-350M: tables of 512 in a model of 1024; positions have the model's width and are not projected."""
    module = part("embedding", "table(width=4, scale=3)", position="learned")
    params = random_params(module, TOKENS, CONTEXT, jnp.float32)
    assert params["table"].shape == (11, 4) and params["project"].shape == (4, 6)
    expected = np.asarray(params["table"])[TOKENS] * 3 @ np.asarray(params["project"]) + np.asarray(params["positions"]["table"])
    found = module.apply({"params": params}, TOKENS, CONTEXT, jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    head, table_VD = part("head", "tied(bias=True)"), np.asarray(params["table"])
    x_BTD = np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)
    params = random_params(head, x_BTD, table_VD)
    expected = x_BTD @ np.asarray(params["project"]) @ table_VD.T + np.asarray(params["bias_V"])
    found = cross_entropy.logits(*head.apply({"params": params}, jnp.asarray(x_BTD), table_VD))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_vectors_of_another_width_are_whole_before_they_are_projected(random_params):
    """Positions, parts and the norm have the width of the vectors; only their sum, normed, is projected."""
    module = part("embedding", "projected(table(d_model=4, types=2, norm=norm))", position="learned")
    params = random_params(module, TOKENS, CONTEXT, jnp.float32)
    vectors = params["vectors"]
    assert vectors["table"].shape == (11, 4) and vectors["positions"]["table"].shape == (5, 4)
    types = np.asarray([[0, 0, 1, 1, 1], [1, 0, 0, 0, 1]])
    x = np.asarray(vectors["table"])[TOKENS] + np.asarray(vectors["positions"]["table"])[None] + np.asarray(vectors["types"])[types]
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(vectors["table_norm"]["scale"])
    expected = x @ np.asarray(params["project"]) + np.asarray(params["project_bias"])
    found = module.apply({"params": params}, TOKENS, CONTEXT.replace(types_BT=types), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert module.apply({"params": params}, TOKENS, CONTEXT, jnp.bfloat16).dtype == jnp.bfloat16
    same = part("embedding", "projected(table)")
    assert set(random_params(same, TOKENS, CONTEXT, jnp.float32)) == {"vectors"}


def test_a_detector_scores_each_token(random_params):
    head = part("head", "detector(activation='relu')")
    x_BTD = np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)
    params = random_params(head, x_BTD, None)
    y = np.maximum(x_BTD @ np.asarray(params["dense"]) + np.asarray(params["dense_bias"]), 0)
    expected = y @ np.asarray(params["kernel"]).T + np.asarray(params["bias_1"])
    features, projection = head.apply({"params": params}, jnp.asarray(x_BTD), None)
    assert projection.loss == "binary"
    np.testing.assert_allclose(cross_entropy.logits(features, projection), expected, rtol=1e-5, atol=1e-5)
