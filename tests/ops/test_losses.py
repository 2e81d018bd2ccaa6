"""What predictions cost: cross-entropy, smoothed labels, tempering and GOLD against their formulas in float64 and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.ops.losses import CrossEntropy, Gold

BATCH, TIME, V = 2, 5, 11
GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.standard_normal((BATCH, TIME, V)).astype(np.float32)
TARGETS = GENERATOR.integers(0, V, (BATCH, TIME))
LOSSES = [
    CrossEntropy(),
    CrossEntropy(z=0.02),
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy(temperature=0.2),
    CrossEntropy(z=0.02, label_smoothing=0.3, temperature=3.0),
    Gold(),
    Gold(temperature=1.0, power=1.0, floor=0.0),
]


def log_probabilities(temperature):
    """log softmax(z / T), one token at a time, float64."""
    p = np.zeros((BATCH, TIME, V))
    for b in range(BATCH):
        for t in range(TIME):
            z = LOGITS[b, t].astype(np.float64) / temperature
            p[b, t] = z - np.log(np.exp(z).sum())
    return p


def at_targets(values):
    return np.array([[values[b, t, TARGETS[b, t]] for t in range(TIME)] for b in range(BATCH)])


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_tempered_cross_entropy_is_its_formula(temperature):
    expected = -at_targets(log_probabilities(temperature))
    np.testing.assert_allclose(CrossEntropy(temperature=temperature).cost(LOGITS, TARGETS), expected, rtol=2e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_slope_is_the_derivative(loss):
    """With numbers of its own for each token, so that none can take another's."""
    scale = GENERATOR.random((BATCH, TIME)).astype(np.float32)
    expected = jax.grad(lambda y: jnp.sum(loss.cost(y, TARGETS) * scale))(LOGITS)
    np.testing.assert_allclose(loss.slope(LOGITS, TARGETS) * scale[..., None], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_smoothed_labels_are_those_of_torch(smoothing):
    """PyTorch spreads the share over the whole vocabulary, target included, as here."""
    import torch

    y = torch.tensor(LOGITS, requires_grad=True)
    targets = torch.tensor(TARGETS).reshape(-1)
    expected = torch.nn.functional.cross_entropy(y.reshape(-1, V), targets, reduction="none", label_smoothing=smoothing)
    expected.sum().backward()
    loss = CrossEntropy(label_smoothing=smoothing)
    np.testing.assert_allclose(loss.cost(LOGITS, TARGETS).reshape(-1), expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(loss.slope(LOGITS, TARGETS), y.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_low_precision_logits_are_raised_first():
    low, loss = jnp.asarray(LOGITS, jnp.bfloat16), CrossEntropy(temperature=0.2)
    cost = loss.cost(low, TARGETS)
    assert cost.dtype == jnp.float32
    np.testing.assert_array_equal(cost, loss.cost(low.astype(jnp.float32), TARGETS))


@pytest.mark.parametrize(("temperature", "power", "floor"), [(0.2, 0.5, 0.05), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0)])
def test_gold_is_weighted_without_a_gradient_through_the_weights(temperature, power, floor):
    """The gradient is -sum w grad log P (Li et al. 2022, arXiv:2203.07814, eq. 1)."""
    import torch

    loss, w = Gold(temperature, power, floor), np.exp(at_targets(log_probabilities(temperature))) ** power
    assert not floor or ((w < floor).any() and (w > floor).any())
    w = np.maximum(w, floor)
    z = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    nll = torch.nn.functional.cross_entropy((z / temperature).reshape(-1, V), torch.tensor(TARGETS).reshape(-1), reduction="none")
    expected = nll * torch.tensor(w).reshape(-1)
    expected.sum().backward()
    np.testing.assert_allclose(loss.cost(LOGITS, TARGETS).reshape(-1), expected.detach().numpy(), rtol=2e-5)
    np.testing.assert_allclose(loss.slope(LOGITS, TARGETS), z.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_an_impossible_token_has_a_finite_slope():
    logits = np.zeros((1, 1, 3), np.float32)
    logits[0, 0, 0] = 1e4
    slope = Gold().slope(logits, np.array([[1]]))
    assert np.isfinite(slope).all() and slope[0, 0, 1] < 0


@pytest.mark.parametrize(
    "sentence", ["cross_entropy(z=-1)", "cross_entropy(label_smoothing=1)", "gold(temperature=0)", "gold(floor=2)"]
)
def test_impossible_numbers_are_refused(sentence):
    with pytest.raises(UserError, match=sentence.split("(")[1].split("=")[0]):
        registry.create("loss", sentence, "config.train.loss")
