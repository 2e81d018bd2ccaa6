"""Tempered cross-entropy and GOLD against their formulas in float64, and the gradient against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.ops import losses

BATCH, TIME, V = 2, 5, 11
GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.standard_normal((BATCH, TIME, V)).astype(np.float32)
TARGETS = GENERATOR.integers(0, V, (BATCH, TIME))
WEIGHTS = (GENERATOR.random((BATCH, TIME)) < 0.7).astype(np.float32)


def probabilities(temperature):
    """softmax(z / T) at the targets, one token at a time, float64."""
    p = np.zeros((BATCH, TIME))
    for b in range(BATCH):
        for t in range(TIME):
            e = np.exp(LOGITS[b, t].astype(np.float64) / temperature)
            p[b, t] = e[TARGETS[b, t]] / e.sum()
    return p


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_tempered_nll_is_its_formula(temperature):
    np.testing.assert_allclose(losses.tempered_nll(LOGITS, TARGETS, temperature), -np.log(probabilities(temperature)), rtol=2e-5)


def test_low_precision_logits_are_raised_first():
    low = jnp.asarray(LOGITS, jnp.bfloat16)
    nll = losses.tempered_nll(low, TARGETS, 0.2)
    assert nll.dtype == jnp.float32
    np.testing.assert_array_equal(nll, losses.tempered_nll(low.astype(jnp.float32), TARGETS, 0.2))


def test_gold_weights_are_their_formula():
    p = probabilities(0.2)
    assert (p**0.5 < 0.05).any() and (p**0.5 > 0.05).any()
    np.testing.assert_allclose(losses.gold_weights(-np.log(p)), np.maximum(p**0.5, 0.05), rtol=1e-5)


@pytest.mark.parametrize(("temperature", "power", "floor"), [(0.2, 0.5, 0.05), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0)])
def test_the_gradient_is_the_weighted_one_of_torch(temperature, power, floor):
    """The gradient is -sum w grad log P, with none through w (Li et al. 2022, arXiv:2203.07814, eq. 1)."""
    import torch

    value, gradient = jax.value_and_grad(losses.gold)(LOGITS, TARGETS, WEIGHTS, temperature, power, floor)
    w = np.maximum(probabilities(temperature) ** power, floor) * WEIGHTS
    z = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    nll = torch.nn.functional.cross_entropy((z / temperature).reshape(-1, V), torch.tensor(TARGETS).reshape(-1), reduction="none")
    loss = (nll * torch.tensor(w).reshape(-1)).sum()
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_without_power_gold_is_tempered_cross_entropy():
    plain = jnp.sum(losses.tempered_nll(LOGITS, TARGETS, 0.2) * WEIGHTS)
    np.testing.assert_allclose(losses.gold(LOGITS, TARGETS, WEIGHTS, power=0.0), plain, rtol=1e-6)


def test_an_impossible_token_has_a_finite_gradient():
    logits = np.zeros((1, 1, 3), np.float32)
    logits[0, 0, 0] = 1e4
    gradient = jax.grad(losses.gold)(logits, np.array([[1]]), np.ones((1, 1), np.float32))
    assert np.isfinite(gradient).all() and gradient[0, 0, 1] < 0
