"""No output depends on a later token, and no packed document on another, shown by gradients that are exactly zero."""

import jax
import jax.numpy as jnp
import numpy as np
from training.common import assert_trees_close

from taxonomy import registry


def influence(tiny, packed, nudged, random_direction) -> np.ndarray:
    """(rows, time, time): the largest gradient of the logits at t by the embedded token at s."""
    model = tiny.model()
    inputs = packed.inputs()
    rows, time = packed.tokens.shape
    zero = jnp.zeros((rows, time, tiny.spec.d_model))

    @jax.jit
    def gradients(params):
        logits, pull = jax.vjp(lambda offset: nudged(model, params, inputs, offset), zero)
        # One backward pass for each t, all rows at once: rows are independent, which `test_rows_do_not_meet` checks.
        one_time_BTV = lambda t: jnp.zeros_like(logits).at[:, t].set(random_direction)  # noqa: E731
        return jax.lax.map(lambda t: jnp.abs(pull(one_time_BTV(t))[0]).max(-1), jnp.arange(time))

    return np.asarray(gradients(tiny.params)).swapaxes(0, 1)


def test_gradients_stay_in_the_past_of_the_own_document(family, tiny, packed, nudged):
    one = tiny(family)
    batch = packed(one.spec.vocab, rows=1)
    direction = np.random.default_rng(0).standard_normal(one.spec.vocab).astype(np.float32)
    found = influence(one, batch, nudged, direction)
    t, s = np.indices(found.shape[1:])
    same = batch.segments[:, :, None] == batch.segments[:, None, :]
    past = s <= t
    assert np.all(found[~(past & same)] == 0)
    # The same gradients are not zero where they need not be: at the token itself, and at the one before it.
    near = same & past & (t - s <= 1) & (batch.segments > 0)[:, :, None]
    for mask in (registry.instantiate(part) for part in one.spec.components() if part.kind == "mask"):
        if mask.by_head:  # no head may have both
            near &= np.asarray(mask.times(batch.positions, batch.positions)).any(1)
    assert np.all(found[near] > 0) and near.sum() > 150


def test_rows_do_not_meet(family, tiny, packed):
    one = tiny(family)
    batch = packed(one.spec.vocab)
    swapped = one.logits(one.params, *(a[::-1] for a in batch.inputs()))
    assert_trees_close(swapped[::-1], one.logits(one.params, *batch.inputs()), rtol=1e-5)
