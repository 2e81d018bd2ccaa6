"""Positions at the embedding, against their definitions written as loops."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.layers.context import Context

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((2, 7, 3, 16)).astype(np.float32)
# Two rows, each with two documents.
POSITIONS = np.asarray([[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4]], np.int32) * 5


def position(sentence: str):
    return registry.create("position", sentence, "position", d_model=12, context=40)


@pytest.mark.parametrize("d_model", [12, 7])
def test_sinusoids(d_model):
    """Vaswani et al. 2017, section 3.5, all sines before all cosines."""
    x = np.zeros((2, 7, d_model), np.float32)
    found = position("sinusoidal").embed(jnp.asarray(x), POSITIONS)
    for b, t in np.ndindex(2, 7):
        waves = [POSITIONS[b, t] / 10000 ** (2 * i / d_model) for i in range(math.ceil(d_model / 2))]
        expected = ([math.sin(w) for w in waves] + [math.cos(w) for w in waves])[:d_model]
        np.testing.assert_allclose(found[b, t], expected, atol=1e-6)


def test_sinusoids_and_learned_vectors_are_added():
    x = GENERATOR.standard_normal((2, 7, 12)).astype(np.float32)
    zero = jnp.zeros_like(x)
    for sentence in ("sinusoidal(base=100)", "learned(initializer=normal(std=1))"):
        module = position(sentence)
        params = module.init(jax.random.key(0), zero, POSITIONS, method="embed")
        embed = lambda y, m=module, p=params: m.apply(p, y, POSITIONS, method="embed")  # noqa: E731
        np.testing.assert_allclose(embed(x), x + embed(zero), rtol=1e-6, atol=1e-6)
        assert np.abs(embed(zero)).max() > 0.5


def test_learned_positions_look_up_a_table():
    x = jnp.zeros((2, 7, 12))
    module = position("learned(initializer=normal(std=1))")
    table = np.arange(40 * 12, dtype=np.float32).reshape(40, 12)
    found = module.apply({"params": {"table": table}}, x, POSITIONS, method="embed")
    np.testing.assert_array_equal(found, table[POSITIONS])
    padding = module.apply({"params": {"table": table}}, x[:1, :1], jnp.full((1, 1), -1), method="embed")
    assert np.isfinite(padding).all()
    module = position("learned(length=context, offset=2, initializer=normal(std=1))")
    found = module.apply({"params": {"table": table}}, x, POSITIONS, method="embed")
    np.testing.assert_array_equal(found, table[POSITIONS + 2])
    assert (module.longest(), position("rope").longest()) == (38, None)
    with pytest.raises(UserError, match="offset=40 must be at least 0 and below length=40"):
        position("learned(offset=40, initializer=normal(std=1))")


@pytest.mark.parametrize("sentence", ["none", "learned", "sinusoidal", "rope", "alibi", "t5_bias", "transformer_xl"])
def test_a_position_acts_in_one_place(sentence, random_params):
    if sentence in ("learned", "t5_bias", "transformer_xl"):
        sentence += "(initializer=normal(std=1))"
    module, q = position(sentence), jnp.asarray(X)
    stream = jnp.zeros((2, 7, 12))
    params = random_params(_At(module, "embed"), stream, POSITIONS)
    embedded = _At(module, "embed").apply({"params": params}, stream, POSITIONS)
    params = random_params(_At(module, "attend"), q, q, Context(POSITIONS), 1.0)
    attended = _At(module, "attend").apply({"params": params}, q, q, Context(POSITIONS), 1.0)
    name = sentence.split("(")[0]
    assert (name in ("learned", "sinusoidal")) == bool(np.any(embedded != stream))
    assert (name == "rope") == bool(np.any(attended[1] != q))
    assert (name in ("rope", "transformer_xl")) == bool(np.any(attended[0] != q))
    assert (name in ("alibi", "t5_bias", "transformer_xl")) == (attended[2] is not None)


class _At(nn.Module):
    """A position at one of its hooks."""

    position: nn.Module
    hook: str

    @nn.compact
    def __call__(self, *inputs):
        return getattr(self.position, self.hook)(*inputs)
