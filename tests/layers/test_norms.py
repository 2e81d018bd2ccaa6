"""Normalisation, against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from taxonomy import registry

X = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32) * 3 + 1


def oracle(name: str, x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, eps: float) -> np.ndarray:
    x, scale = torch.tensor(x), torch.tensor(np.asarray(scale))
    if name == "rmsnorm":
        return torch.nn.functional.rms_norm(x, x.shape[-1:], scale, eps).numpy()
    bias = None if bias is None else torch.tensor(np.asarray(bias))
    return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, eps).numpy()


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("sentence", ["layernorm(eps={})", "layernorm(eps={}, bias=False)", "rmsnorm(eps={})"])
def test_norms_are_those_of_torch(sentence, eps, random_params):
    norm = registry.create("norm", sentence.format(eps), "norm")
    params = random_params(norm, X)
    assert set(params) == ({"scale", "bias"} if getattr(norm, "bias", False) else {"scale"})
    expected = oracle(sentence.split("(")[0], X, params["scale"], params.get("bias"), eps)
    np.testing.assert_allclose(norm.apply({"params": params}, X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sentence", ["layernorm(eps=1e-5)", "rmsnorm(eps=1e-5)"])
def test_sums_are_float32_in_bfloat16_models(sentence, random_params):
    """Around a large mean, bfloat16 sums would lose everything."""
    norm = registry.create("norm", sentence, "norm")
    x = jnp.asarray(X + 100, jnp.bfloat16)
    params = random_params(norm, x)
    y = norm.apply({"params": params}, x)
    exact = norm.apply({"params": params}, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_constant_rows_stay_finite(random_params):
    norm = registry.create("norm", "layernorm(eps=1e-5)", "norm")
    params = random_params(norm, X)
    np.testing.assert_allclose(norm.apply({"params": params}, np.full((1, 12), 7.0, np.float32)), params["bias"][None], atol=1e-6)


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_gains_may_be_missing_or_stored_as_offsets_from_one(name, random_params):
    sentences = (f"{name}(eps=1e-3)", f"{name}(eps=1e-3, unit_offset=True)", f"{name}(eps=1e-3, gain=False)")
    plain, offset, bare = (registry.create("norm", sentence, "norm") for sentence in sentences)
    params = random_params(plain, X)
    stored = {**params, "scale": params["scale"] - 1}
    expected = plain.apply({"params": params}, X)
    np.testing.assert_allclose(offset.apply({"params": stored}, X), expected, rtol=1e-5, atol=1e-6)
    assert not offset.init(jax.random.key(0), X)["params"]["scale"].value.any()
    without = {k: v for k, v in params.items() if k != "scale"}
    expected = plain.apply({"params": {**params, "scale": jnp.ones(12)}}, X)
    np.testing.assert_allclose(bare.apply({"params": without}, X), expected, rtol=1e-6, atol=1e-6)
