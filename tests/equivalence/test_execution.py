"""How a model is computed does not change what it computes: scan, rematerialisation, attention, loss chunks, dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.common import assert_trees_close, learning_apart

from taxonomy import stack
from taxonomy.ops import cross_entropy
from taxonomy.ops.losses import CrossEntropy

Z_LOSS = 1e-3


def loss(one, params, batch, **execution):
    """The mean loss and its sums."""
    model = one.model(**{"loss_chunk": 40, **execution})
    tokens, positions, segments = batch.inputs()
    sums = model.apply(
        {"params": params}, tokens, batch.targets, positions, segments, batch.weights, loss=CrossEntropy(z=Z_LOSS), method="loss"
    )
    return sums.loss / sums.weight.sum(), sums


def gradients(one, params, batch, **execution):
    return jax.jit(jax.value_and_grad(lambda params: loss(one, params, batch, **execution), has_aux=True))(params)


@functools.cache
def _plain(one_of, packed, family):
    one = one_of(family)
    batch = packed(one.spec.vocab)
    return one, batch, gradients(one, one.params, batch)


@pytest.fixture
def plain(family, tiny, packed):
    """A family's tiny model, a packed batch, and its loss with gradients as computed by default."""
    return _plain(tiny, packed, family)


def assert_same(found, expected, rtol=1e-4, atol=1e-6, apart=()):
    """Equal loss, sums and gradients; a gradient is compared on the scale of its own array.

    Modules `apart` learn from a loss of their own, which is not computed here.
    """
    (found_value, found_gradients), (value, expected_gradients) = found, expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found_value, value)

    def compare(path, a, b):
        scale = np.abs(b).max()
        # What moves a router's choice has no gradient.
        idle = path[-1].key == "selection_bias" or any(entry.key in apart for entry in path)
        assert (scale > 0) != idle, path
        np.testing.assert_allclose(a, b, rtol=rtol, atol=max(atol, rtol * scale), err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, found_gradients, expected_gradients)


@pytest.mark.slow_by_family
def test_scan_is_loop(plain):
    one, batch, expected = plain
    algebra = one.spec.decoder
    unrolled = {**one.params, "decoder": stack.unstack(one.params["decoder"], algebra)}
    again = stack.restack(unrolled["decoder"], algebra)
    jax.tree.map(np.testing.assert_array_equal, again, one.params["decoder"])
    value, flat = gradients(one, unrolled, batch, scan=False)
    assert_same((value, {**flat, "decoder": stack.restack(flat["decoder"], algebra)}), expected, apart=learning_apart(one.spec))


@pytest.mark.slow_by_family
def test_computing_again_changes_nothing(plain):
    one, batch, expected = plain
    assert_same(gradients(one, one.params, batch, remat="full"), expected, apart=learning_apart(one.spec))


@pytest.mark.parametrize(  # two blocks in turn, one in parallel, repeats in a repeat
    ("family", "remat"), [("gpt3", "dots"), ("palm", "dots"), ("gemma3", "dots"), ("palm", "offload")]
)
def test_other_policies_change_nothing(tiny, packed, family, remat):
    one, batch, expected = _plain(tiny, packed, family)
    assert_same(gradients(one, one.params, batch, remat=remat), expected)


@pytest.mark.slow_by_family
def test_remat_saves_less(plain):
    """Each policy keeps fewer numbers for the backward pass than the one before it."""
    one, batch, _ = plain

    def residuals(remat):
        _, pull = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(one, p, batch, remat=remat)[0], p), one.params)
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    none, dots, full = map(residuals, ("none", "dots", "full"))
    # Products of tracks side by side have a batch dimension, as scores of attention have.
    side_by_side = any(part.name == "tracks" for part in one.spec.components())
    assert none > dots and (dots == full if side_by_side else dots > full)


@pytest.mark.slow_by_family
def test_chunked_attention_is_the_reference(plain):
    """Gradients are compared in the tests of the operation."""
    one, batch, _ = plain
    chunked, reference = (one.logits(one.params, *batch.inputs(), attention=name) for name in ("auto", "reference"))
    assert_trees_close(chunked, reference, rtol=1e-5)


@pytest.mark.slow_by_family
def test_the_loss_is_that_of_the_logits(plain):
    """Gradients are compared in the tests of the operation."""
    one, batch, (expected, _) = plain

    @jax.jit
    def from_logits(logits):
        log_z = jax.nn.logsumexp(logits, -1)
        nll = log_z - jnp.take_along_axis(logits, batch.targets[..., None], -1)[..., 0]
        total = lambda values: (values * batch.weights).sum(1)  # noqa: E731
        correct = logits.argmax(-1) == batch.targets
        sums = cross_entropy.Sums(total(nll + Z_LOSS * log_z**2).sum(), total(nll), total(correct), batch.weights.sum(1))
        return sums.loss / sums.weight.sum(), sums

    found = from_logits(one.logits(one.params, *batch.inputs()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.slow_by_family
def test_bfloat16_is_near(plain):
    """Activations in bfloat16 (8 bits) move the loss by well under a percent."""
    one, batch, (expected, _) = plain
    value, sums = jax.jit(lambda p: loss(one, p, batch, dtype="bfloat16"))(one.params)
    np.testing.assert_allclose(value, expected[0], rtol=0.01)
    assert value != expected[0] and sums.loss.dtype == jnp.float32
    logits = jax.eval_shape(lambda p: one.model(dtype="bfloat16").apply({"params": p}, *batch.inputs()), one.params)
    assert logits.dtype == jnp.float32


def test_bfloat16_gradients_point_the_same_way(tiny, packed):
    one, batch, (_, expected) = _plain(tiny, packed, "gpt3")  # a family with biases, two masks and a tied head
    _, found = gradients(one, one.params, batch, dtype="bfloat16")

    def compare(path, a, b):
        assert a.dtype == jnp.float32
        if np.abs(b).max() < 1e-6:  # a key's bias moves all scores of a query alike: its gradient is rounding
            return
        similarity = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
        assert similarity > 0.98, f"{jax.tree_util.keystr(path)}: {similarity}"

    jax.tree_util.tree_map_with_path(compare, found, expected)
