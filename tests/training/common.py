"""What the tests of training share: trainers compiled once, states that may be donated, trees compared."""

import functools
import re

import jax
import numpy as np

from taxonomy import registry, sharding, spec
from taxonomy.model import build
from taxonomy.training.step import Trainer, TrainState

# Smooth near zero: Adam's first update is otherwise the sign of the gradient, whatever its size.
SMOOTH = "adamw(b1=0.9, b2=0.95, eps=1e-2, weight_decay=0.1)"
RATE = 1e-2


@functools.cache
def trainer_of(
    model: spec.Model,
    optimizer: str = SMOOTH,
    clip=None,
    loss="cross_entropy",
    mesh="data:1",
    devices=1,
    parts=(1, 1),
    stream="whole",
) -> Trainer:
    """A trainer on the first devices; tests that ask for the same one share what it has compiled."""
    place = sharding.make_mesh(mesh, jax.devices()[:devices])
    return Trainer(
        build(model, stream=stream),
        registry.create("optimizer", optimizer, "config.train.optimizer"),
        place,
        clip,
        registry.create("loss", loss, "config.train.loss"),
        parts,
    )


def start(trainer: Trainer, params, step=0) -> TrainState:
    """A state with these parameters; its arrays are its own, for the step takes them."""
    params = jax.tree.map(np.array, params)
    state = TrainState(np.int32(step), np.int32(0), jax.random.key(3), params, jax.jit(trainer.transform.init)(params))
    return jax.device_put(state, trainer.shardings)


def assert_trees_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree_util.tree_map_with_path(lambda p, a, b: np.testing.assert_array_equal(a, b, jax.tree_util.keystr(p)), found, expected)


def without_key(state):
    """The state with its random key as numbers."""
    return state.replace(key=jax.random.key_data(state.key))


def assert_trees_close(found, expected, rtol=1e-4):
    """Arrays are compared on the scale of their largest element, or where all are rounding on that of the tree."""
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))

    def compare(path, a, b):
        scale = max(float(np.abs(b).max()), 1e-4 * largest)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, found, expected)


def learning_apart(model: spec.Model) -> set[str]:
    """The modules that have no gradient but that of a loss of their own, while training."""
    factories = [registry.find((part.kind,), part.name).factory for part in model.components()]
    return {name for factory in factories for name in getattr(factory, "learns_apart", ())}


def uneven_batch(packed, vocab: int) -> dict:
    """Eight rows of 32 packed tokens that count for very different numbers of targets."""
    batch = packed(vocab, time=32, rows=8, longest=24, padding=3)._asdict()
    for row, real in enumerate((32, 5, 20, 32, 9, 32, 2, 14)):
        batch["weights"][row, real:] = 0.0
    return batch


def results(text, operation):
    """The shapes of all results of an operation in a compiled program, without dimensions of one."""
    found = re.findall(rf"= (.*?) {operation}(?:-start)?\(", text)
    shapes = [re.findall(r"\w+\[([\d,]*)\]", one) for one in found]
    return {tuple(int(n) for n in shape.split(",") if n not in ("", "1")) for one in shapes for shape in one}
