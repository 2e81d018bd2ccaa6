"""Declarations, projections, initialisers and dropout."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.layers.params import ROLES, Declared, declare, dropout, project

KEY = jax.random.key(0)


def initial(sentence: str, role: str, shape=(64, 4, 32), fan_in=64, fan_out=128, key=KEY) -> np.ndarray:
    return np.asarray(registry.create("init", sentence, "initializer")(key, shape, role, fan_in, fan_out))


@pytest.mark.parametrize(
    ("sentence", "stds"),
    [
        ("normal(std=0.02)", dict.fromkeys(("query", "key", "value", "mlp", "residual", "output", "embedding", "position"), 0.02)),
        (
            "normal(std=0.02, residual_std=0.005, embedding_std=1, position_std=0.01, output_std=0.3)",
            dict(query=0.02, key=0.02, value=0.02, mlp=0.02, residual=0.005, embedding=1.0, position=0.01, output=0.3),
        ),
        ("normal(std=0.02, residual_std=0)", dict(query=0.02, residual=0.0)),
        ("fan_in", dict(query=64**-0.5, mlp=64**-0.5, residual=64**-0.5, output=64**-0.5, embedding=1.0, position=0.02)),
        ("fan_in(scale=2, embedding_std=0.5, position_std=0.1)", dict(query=(2 / 64) ** 0.5, embedding=0.5, position=0.1)),
        ("xavier", dict(query=(2 / 192) ** 0.5, mlp=(2 / 192) ** 0.5, residual=(2 / 192) ** 0.5, embedding=0.02, position=0.02)),
        ("xavier(gain=3, embedding_std=1)", dict(value=(6 / 192) ** 0.5, embedding=1.0, position=1.0)),
        (
            "depth_scaled(base=normal(std=0.1), gain=0.5)",
            dict(query=0.1, key=0.1, value=0.05, mlp=0.05, residual=0.05, output=0.1, embedding=0.1, position=0.1),
        ),
    ],
)
def test_initialisers_give_each_role_its_spread(sentence, stds):
    for role, std in stds.items():
        values = initial(sentence, role)
        assert values.shape == (64, 4, 32) and values.dtype == np.float32
        # The standard error of a standard deviation of n normal draws is std / sqrt(2n).
        assert abs(values.std() - std) <= 5 * std / (2 * values.size) ** 0.5, role
        assert abs(values.mean()) <= 5 * std / values.size**0.5, role


@pytest.mark.parametrize("sentence", [e.name for e in registry.entries("init")])
def test_initialisers_follow_their_key(sentence):
    needed = {"normal": "std=1", "depth_scaled": "base=normal(std=1), gain=2", "grown": "base=fan_in, width=2"}
    sentence += f"({needed.get(sentence, '')})"
    for role in ("query", "embedding", "residual"):
        np.testing.assert_array_equal(initial(sentence, role), initial(sentence, role))
        assert not np.array_equal(initial(sentence, role), initial(sentence, role, key=jax.random.key(1)))


INIT = registry.Component("init", "fan_in", (("scale", 1.0), ("embedding_std", 1.0), ("position_std", 0.02)))


@pytest.mark.parametrize(
    ("shape", "role", "inputs", "fans"),
    [
        ((8, 4, 6), "query", 1, (8, 24)),
        ((4, 6, 8), "residual", 2, (24, 8)),
        ((8, 12), "mlp", 1, (8, 12)),
        ((50, 8), "embedding", 1, (8, 50)),
        ((50, 8), "output", 1, (8, 50)),
        ((16, 8), "position", 1, (8, 16)),
    ],
)
def test_a_declaration_says_everything(shape, role, inputs, fans):
    class Module(nn.Module):
        @nn.compact
        def __call__(self):
            return declare(self, "weight", shape, tuple(f"axis{i}" for i in range(len(shape))), role, INIT, inputs)

    box = Module().init(KEY)["params"]["weight"]
    assert isinstance(box, Declared) and role in ROLES
    assert (box.value.shape, box.value.dtype, box.role) == (shape, jnp.float32, role)
    assert (box.fan_in, box.fan_out) == fans and math.prod(fans) == math.prod(shape)
    assert box.names == tuple(f"axis{i}" for i in range(len(shape)))


def test_gains_start_at_one_and_biases_at_zero():
    class Module(nn.Module):
        @nn.compact
        def __call__(self):
            return declare(self, "gain", (3,), ("embed",), "gain"), declare(self, "bias", (3,), ("embed",), "bias")

    gain, bias = Module().apply(Module().init(KEY))
    assert (list(gain), list(bias)) == ([1, 1, 1], [0, 0, 0])


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "inputs", "einsum"),
    [
        ((2, 5, 8), (8, 12), 1, "btd,df->btf"),
        ((2, 5, 8), (8, 4, 6), 1, "btd,dhk->bthk"),
        ((2, 5, 4, 6), (4, 6, 8), 2, "bthk,hkd->btd"),
        ((7, 8), (8, 12), 1, "nd,df->nf"),
    ],
)
def test_projections_are_einsums(x_shape, kernel_shape, inputs, einsum):
    generator = np.random.default_rng(0)
    x, kernel = (generator.standard_normal(shape).astype(np.float32) for shape in (x_shape, kernel_shape))
    bias = generator.standard_normal(kernel_shape[inputs:]).astype(np.float32)
    expected = np.einsum(einsum, x, kernel)
    np.testing.assert_allclose(project(jnp.asarray(x), jnp.asarray(kernel), None, inputs), expected, rtol=1e-5, atol=1e-5)
    found = project(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(bias), inputs)
    np.testing.assert_allclose(found, expected + bias, rtol=1e-5, atol=1e-5)
    assert project(jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel), jnp.asarray(bias), inputs).dtype == jnp.bfloat16


class Dropped(nn.Module):
    rate: float

    def __call__(self, x, train):
        return dropout(self, x, self.rate, train)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    x = jnp.ones((200, 500))
    y = np.asarray(Dropped(rate).apply({}, x, True, rngs={"dropout": KEY}))
    assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - rate))}
    error = (rate * (1 - rate) / x.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 5 * error
    assert abs(y.mean() - 1) < 5 * error / (1 - rate)
    again = Dropped(rate).apply({}, x, True, rngs={"dropout": KEY})
    other = Dropped(rate).apply({}, x, True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(y, again)
    assert not np.array_equal(y, other)


def test_dropout_rests_outside_training():
    x = jax.random.normal(KEY, (4, 4))
    np.testing.assert_array_equal(Dropped(0.5).apply({}, x, False), x)
    np.testing.assert_array_equal(Dropped(0.0).apply({}, x, True), x)
    assert Dropped(0.5).apply({}, x.astype(jnp.bfloat16), True, rngs={"dropout": KEY}).dtype == jnp.bfloat16


def test_dropout_gradients_follow_the_mask():
    x = jnp.ones((50,))
    apply = lambda x: Dropped(0.5).apply({}, x, True, rngs={"dropout": KEY})  # noqa: E731
    np.testing.assert_array_equal(jax.grad(lambda x: apply(x).sum())(x), apply(x))
