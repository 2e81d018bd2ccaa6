"""The chunked loss with gradients of its own, against the plain loss and PyTorch's."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from scipy import stats

from taxonomy import sharding
from taxonomy.ops import cross_entropy as ce
from taxonomy.ops.cross_entropy import Projection
from taxonomy.ops.losses import CrossEntropy, Gold

BATCH, TIME, D, V = 3, 10, 8, 37
GENERATOR = np.random.default_rng(0)
X, KERNEL, BIAS = (GENERATOR.standard_normal(s).astype(np.float32) for s in ((BATCH, TIME, D), (V, D), (V,)))
TARGETS = GENERATOR.integers(0, V, (BATCH, TIME))
WEIGHTS = (GENERATOR.random((BATCH, TIME)) * (GENERATOR.random((BATCH, TIME)) < 0.7)).astype(np.float32)
HEADS = {
    "plain": {},
    "bias": dict(bias=True),
    "scale": dict(scale=0.3),
    "softcap": dict(softcap=2.0),
    "all": dict(bias=True, scale=0.3, softcap=2.0),
}


def projection(kernel, bias, options) -> Projection:
    return Projection(kernel, bias if options.get("bias") else None, options.get("scale", 1.0), options.get("softcap"))


PLAIN, Z_LOSS = CrossEntropy(), CrossEntropy(z=0.02)
LOSSES = {"smoothed": CrossEntropy(0.02, label_smoothing=0.2), "tempered": CrossEntropy(temperature=0.5), "gold": Gold()}


@pytest.mark.parametrize("loss", [PLAIN, Z_LOSS, LOSSES["smoothed"]], ids=str)
@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS.keys())
def test_the_reference_is_that_of_torch(options, loss):
    import torch

    sums = ce.reference(X, projection(KERNEL, BIAS, options), TARGETS, WEIGHTS, loss)
    y = torch.tensor(X @ KERNEL.T) * options.get("scale", 1.0) + (torch.tensor(BIAS) if options.get("bias") else 0)
    if cap := options.get("softcap"):
        y = cap * torch.tanh(y / cap)
    rows = y.reshape(-1, V), torch.tensor(TARGETS).reshape(-1)
    nll, smoothed = (
        torch.nn.functional.cross_entropy(*rows, reduction="none", label_smoothing=share).reshape(BATCH, TIME)
        for share in (0.0, loss.label_smoothing)
    )
    weights = torch.tensor(WEIGHTS)
    np.testing.assert_allclose(sums.nll, (nll * weights).sum(1), rtol=1e-5)
    np.testing.assert_allclose(sums.loss, ((smoothed + loss.z * y.logsumexp(-1) ** 2) * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.correct, ((y.argmax(-1) == torch.tensor(TARGETS)) * weights).sum(1), rtol=1e-5)
    np.testing.assert_allclose(sums.weight, WEIGHTS.sum(1), rtol=1e-6)


def both(function, options, cost, dtype=jnp.float32):
    """Sums, and gradients of three times the loss by features, kernel and bias."""

    def loss(x, kernel, bias):
        sums = function(x, projection(kernel, bias, options), TARGETS, WEIGHTS, cost)
        return 3 * sums.loss, sums

    (_, sums), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(jnp.asarray(X, dtype), KERNEL, BIAS)
    return sums, gradients


@functools.cache
def of_reference(head, loss):
    return both(ce.reference, HEADS[head], loss)


@pytest.mark.parametrize(
    ("head", "loss", "chunk"),
    [
        *((head, loss, 6) for head in HEADS for loss in (PLAIN, Z_LOSS)),
        *(("all", loss, 6) for loss in LOSSES.values()),
        *(("all", Z_LOSS, chunk) for chunk in (1, 3, 4, 7, 15, 30, 1000)),
        *(("plain", PLAIN, chunk) for chunk in (1, 1000)),
    ],
)
def test_chunks_give_the_reference_and_its_gradients(head, loss, chunk):
    found, found_gradients = both(lambda *a: ce.cross_entropy(*a, chunk), HEADS[head], loss)
    expected, expected_gradients = of_reference(head, loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    for name, a, b in zip(("features", "kernel", "bias"), found_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
        assert np.any(b) or (name == "bias" and not HEADS[head].get("bias"))


def test_chunks_of_parts_of_the_sequence_give_the_reference():
    """Every device chunks its own part, and samples are in the order of the tokens."""
    options, cost = HEADS["all"], Z_LOSS
    uniform = GENERATOR.random((BATCH, TIME)).astype(np.float32)
    head = projection(jnp.asarray(KERNEL), jnp.asarray(BIAS), options)
    drawn = ce.sample(jnp.asarray(X), head, jnp.asarray(uniform), 1000)
    with jax.set_mesh(sharding.make_mesh("data:3,sequence:2", jax.devices()[:6])):
        # Five tokens of a row on each device, one at a time.
        found = both(functools.partial(ce.cross_entropy, chunk_tokens=3), options, cost)
        sampled = jax.jit(lambda x: ce.sample(x, head, uniform, 3))(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, of_reference("all", cost))
    np.testing.assert_array_equal(sampled, drawn)


def test_the_value_alone_is_the_value_with_gradients():
    head = projection(KERNEL, BIAS, HEADS["all"])
    alone = ce.cross_entropy(X, head, TARGETS, WEIGHTS, Z_LOSS, 6)
    with_gradients, _ = both(lambda *a: ce.cross_entropy(*a, 6), HEADS["all"], Z_LOSS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, with_gradients)


def test_tokens_without_weight_count_for_nothing():
    weights = WEIGHTS.copy()
    weights[:, ::2] = 0

    def loss(x, targets):
        return ce.cross_entropy(x, Projection(KERNEL, None), targets, weights, Z_LOSS, 6).loss

    other_targets = np.where(weights > 0, TARGETS, (TARGETS + 1) % V)
    gradient = jax.grad(loss)(X, TARGETS)
    assert loss(X, TARGETS) == loss(X, other_targets)
    assert not np.any(gradient[:, ::2]) and np.all(np.any(gradient[:, 1::2], -1) == (weights[:, 1::2] > 0))


def test_bfloat16_features_are_near():
    """Gradients are rounded once to bfloat16 (8 bits), sums stay float32."""
    expected, expected_gradients = of_reference("all", Z_LOSS)
    found, found_gradients = both(lambda *a: ce.cross_entropy(*a, 6), HEADS["all"], Z_LOSS, jnp.bfloat16)
    assert found.loss.dtype == jnp.float32
    assert [g.dtype for g in found_gradients] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(found.loss, expected.loss, rtol=5e-3)
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        error = np.linalg.norm(np.asarray(a, np.float32) - b) / np.linalg.norm(b)
        assert error < 0.02


@pytest.mark.parametrize("z", [0.0, 0.02])
def test_one_score_is_that_of_a_yes(z):
    """Against the binary cross-entropy of PyTorch, with gradients; the z-loss is that of the two scores, one of them zero."""
    import torch

    targets = TARGETS % 2

    def loss(x, kernel, bias):
        sums = ce.cross_entropy(x, Projection(kernel, bias, loss="binary"), targets, WEIGHTS, CrossEntropy(z=z), 6)
        return sums.loss, sums

    arrays = X, KERNEL[:1], BIAS[:1]
    (_, sums), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays)
    x, kernel, bias = (torch.tensor(array, requires_grad=True) for array in arrays)
    y, weights = (x @ kernel.T + bias)[..., 0], torch.tensor(WEIGHTS)
    nll = torch.nn.functional.binary_cross_entropy_with_logits(y, torch.tensor(targets).float(), reduction="none")
    expected = ((nll + z * torch.nn.functional.softplus(y) ** 2) * weights).sum()
    expected.backward()
    np.testing.assert_allclose(sums.loss, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(sums.nll, (nll * weights).sum(1).detach(), rtol=1e-5)
    np.testing.assert_allclose(sums.correct, (((y > 0) == torch.tensor(targets > 0)) * weights).sum(1), rtol=1e-5)
    for found, tensor in zip(gradients, (x, kernel, bias), strict=True):
        np.testing.assert_allclose(found, tensor.grad, rtol=1e-4, atol=1e-5)


def test_samples_have_the_probabilities_of_the_logits():
    head = projection(KERNEL, BIAS, HEADS["all"])
    draws = 4000
    uniform = np.random.default_rng(1).random((draws, TIME)).astype(np.float32)
    x = np.tile(X[:1], (draws, 1, 1))
    drawn = np.asarray(ce.sample(x, head, uniform, draws))
    expected = np.asarray(jax.nn.softmax(ce.logits(X[0], head)))
    for place in range(TIME):
        counts = np.bincount(drawn[:, place], minlength=V)
        assert stats.chisquare(counts, draws * expected[place] / expected[place].sum(dtype=np.float64)).pvalue > 1e-4
    # The number says how much of the probability is before the sample, in whatever parts it is computed.
    below = np.cumsum(np.pad(expected, ((0, 0), (1, 0))), -1)
    for row in range(3):
        assert drawn[row].tolist() == [np.searchsorted(below[t], uniform[row, t], "right") - 1 for t in range(TIME)]
    for chunk in (1, 6, 15, 30):
        np.testing.assert_array_equal(ce.sample(X, head, uniform[:BATCH], chunk), ce.sample(X, head, uniform[:BATCH], 1000))
    ends = ce.sample(X, head, np.float32([[0.0] * TIME, [np.nextafter(np.float32(1), 0)] * TIME, [0.5] * TIME]))
    assert ends[0].tolist() == [0] * TIME and ends[1].max() < V


@pytest.mark.parametrize("chunk", [1, 4, 16, 30, 64])
def test_no_more_logits_are_alive_than_a_chunk_holds(chunk):
    """Chunks divide the time axis, so one time step of the batch is the least."""
    run = lambda x: ce.cross_entropy(x, Projection(KERNEL, None), TARGETS, WEIGHTS, PLAIN, chunk).loss  # noqa: E731
    text = str(jax.make_jaxpr(jax.value_and_grad(run))(X))
    alive = max(b * t for b in (BATCH,) for t in range(1, TIME + 1) if f"f32[{b},{t},{V}]" in text)
    assert alive <= max(chunk, BATCH)


def reductions(text: str) -> list[tuple[bool, int]]:
    """Of a compiled program's sums over devices: whether a loop's body has them, and how many numbers are summed."""
    parts = {match[1]: match[2] for match in re.finditer(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\n((?:  .*\n)*)\}", text, re.M)}
    looped, more = set(), set(re.findall(r"body=%?([\w.-]+)", text))
    while more - looped:
        looped |= more
        more = {name for part in looped for name in re.findall(r"(?:to_apply|calls|body)=%?([\w.-]+)", parts.get(part, ""))}
    found = []
    for name, part in parts.items():
        for shapes in re.findall(r"= (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\(", part):
            sizes = re.findall(r"\w+\[([\d,]*)\]", shapes)
            found += [(name in looped, math.prod(map(int, filter(None, size.split(","))))) for size in sizes]
    return found


@pytest.mark.parametrize("mesh", ["data:4", "fsdp:4", "data:2,fsdp:2,tensor:2", "tensor:4"])
def test_devices_exchange_the_gradient_of_the_head_once(mesh):
    """It is that of one device, and no chunk's turn sums it over devices; the gradients of features are summed over `tensor`."""
    batch, time, d, vocab = 8, 6, 24, 64
    x, kernel, bias = (GENERATOR.standard_normal(s).astype(np.float32) for s in ((batch, time, d), (vocab, d), (vocab,)))
    targets, weights = GENERATOR.integers(0, vocab, (batch, time)), GENERATOR.random((batch, time)).astype(np.float32)

    def loss(x, kernel, bias, targets, weights):
        # Chunks of one token a row.
        sums = ce.cross_entropy(x, Projection(kernel, bias, 0.5, 3.0), targets, weights, Z_LOSS, 1)
        return sums.loss, sums

    arrays, gradients = (x, kernel, bias, targets, weights), jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    expected = jax.jit(gradients)(*arrays)
    place = sharding.make_mesh(mesh, jax.devices()[: sharding.devices_of(mesh)])
    names = (("batch", "time", None), ("vocab", "embed"), ("vocab",), ("batch", "time"), ("batch", "time"))
    places = [NamedSharding(place, sharding.partition(axes, a.shape, place)) for axes, a in zip(names, arrays, strict=True)]
    with jax.set_mesh(place):
        compiled = jax.jit(gradients, in_shardings=places, out_shardings=(None, tuple(places[:3]))).lower(*arrays).compile()
    found = compiled(*jax.device_put(arrays, tuple(places)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    own, sizes = vocab // place.shape["tensor"], reductions(compiled.as_text())
    assert sizes and not {own, d * own} & {size for looped, size in sizes if looped}
    assert ({own, d * own} <= {size for looped, size in sizes if not looped}) == (mesh != "tensor:4")


def test_large_logits_stay_finite():
    head = Projection(jnp.asarray(KERNEL) * 1e4, None)
    (value, gradient) = jax.value_and_grad(lambda x: ce.cross_entropy(x, head, TARGETS, WEIGHTS, PLAIN, 6).loss)(X)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("values", [1, 3])
def test_a_squared_error(values):
    """Of real numbers, averaged over those of a row; a single one needs no axis of its own."""
    head = Projection(KERNEL[:values], BIAS[:values], loss="squared")
    targets = GENERATOR.standard_normal((BATCH, TIME, values)).astype(np.float32)
    found = ce.cross_entropy(X, head, targets[..., 0] if values == 1 else targets, WEIGHTS)
    expected = 0.0
    for b, t in np.ndindex(BATCH, TIME):
        said = [X[b, t] @ KERNEL[i] + BIAS[i] for i in range(values)]
        expected += WEIGHTS[b, t] * sum((s - y) ** 2 for s, y in zip(said, targets[b, t], strict=True)) / values
    np.testing.assert_allclose((found.loss, found.nll.sum()), expected, rtol=1e-5)
    assert not found.correct.any() and found.weight.sum() == pytest.approx(WEIGHTS.sum())
