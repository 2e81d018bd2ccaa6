"""Under muP one step changes what a matrix gives by as much at any width, whichever the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taxonomy import registry
from taxonomy.layers.parametrizations import spread
from taxonomy.layers.params import Declared

BASE, TIMES, FEW = 32, 16, 4
SENTENCES = ("adamw", "lion", "adafactor(factored=False)", "adafactor(factored=False, b1=0.9)", "muon")


def optimizer(sentence):
    return registry.create("optimizer", sentence, "config.train.optimizer")


def matrix(role: str, times: int) -> Declared:
    """A projection from all features to all of them, or from or to a few, in a model so many times as wide as its base."""
    few_in, few_out = role == "residual", role in ("router", "key")
    shape = (FEW if few_in else BASE * times, FEW if few_out else BASE * times)
    growth = {"growth_in": 1.0 if few_in else float(times), "growth_out": 1.0 if few_out else float(times)}
    fans = {"fan_in": shape[0], "fan_out": shape[1]}
    return Declared(jax.ShapeDtypeStruct(shape, jnp.float32), (None, None), role=role, **fans, **growth)


def change(sentence: str, role: str, times: int) -> float:
    """How much a gradient that is the same at all places changes what a matrix gives for features of one, root mean square."""
    box = matrix(role, times)
    tree = {"matrix": box}
    start = {"matrix": spread(role, box.growth_in) * jax.random.normal(jax.random.key(0), box.value.shape)}
    one = optimizer(sentence)
    transform = one.transform(tree)
    # As small as a wide model's gradients are.
    gradient = {"matrix": jnp.full(box.value.shape, 1e-6 / times)}
    updates, _ = transform.update(gradient, transform.init(start), start)
    moved = one.scaled(updates, start, jnp.float32(1.0), tree)["matrix"]
    return float(jnp.sqrt(jnp.mean(jnp.square(jnp.ones(box.fan_in) @ moved))))


@pytest.mark.parametrize("role", ["mlp", "residual", "router", "key"])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_step_moves_what_a_matrix_gives_by_as_much_at_any_width(sentence, role):
    """What a few features move, those of a row of `residual`, and what all move: `mlp` all, `router` and `key` a few."""
    narrow, wide = (change(sentence, role, times) for times in (1, TIMES))
    # Sizes of random matrices, which adafactor's steps go by, scatter by a few percent.
    assert wide == pytest.approx(narrow, rel=0.15)


@pytest.mark.parametrize("sentence", ["adamw", "lion", "adafactor", "muon"])
def test_decay_is_the_same_at_any_width(sentence):
    box = matrix("mlp", TIMES)
    value = {"matrix": jax.random.normal(jax.random.key(0), box.value.shape)}
    transform = optimizer(f"{sentence}(weight_decay=0.1)").transform({"matrix": box})
    updates, _ = transform.update(jax.tree.map(jnp.zeros_like, value), transform.init(value), value)
    np.testing.assert_allclose(updates["matrix"], -0.1 * value["matrix"], rtol=1e-5, atol=1e-7)


def test_states_are_those_of_optax_where_nothing_grew():
    """So that checkpoints of the standard parametrization stay readable."""
    box = matrix("mlp", 1)
    value = {"matrix": jnp.ones(box.value.shape)}
    for sentence, theirs in (("adamw(weight_decay=0.1)", optax.adamw), ("lion(weight_decay=0.1)", optax.lion)):
        ours = optimizer(sentence).transform({"matrix": box}).init(value)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs(1.0, weight_decay=0.1, mask={"matrix": True}).init(value))
