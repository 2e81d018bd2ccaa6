"""Pairs that share a row: the loss of each is what it is alone, and none learns from another, on either side."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.data.examples import Examples
from taxonomy.objectives.objective import Lengths, Specials
from taxonomy.objectives.pairs import Pairs

VOCAB, START, SEPARATOR = 128, 0, 1
SPECIALS = Specials(start=START, vocab=VOCAB, used=VOCAB, separator=SEPARATOR)


def rows_of(packed: bool, two_stacks: bool):
    """Batches of the same twelve short pairs, in rows of their own or not."""
    generator, documents = np.random.default_rng(0), []
    for _ in range(12):
        given, wanted = (generator.integers(2, VOCAB, size) for size in generator.integers(2, 8, 2))
        documents += [[START], given, [SEPARATOR], wanted]
    lengths = Lengths(24, 20) if two_stacks else Lengths(40)
    examples = Examples(np.concatenate(documents), Pairs(packed=packed), SPECIALS, lengths, seed=0)
    batch = examples.batch(0, len(examples))
    batch.pop("prefix", None)  # these models read from left to right
    return batch


@functools.partial(jax.jit, static_argnums=0)
def losses(model, params, batch, offset):
    """The loss of every target, [B, T], with something added to what the stacks read."""

    def add(next_function, args, kwargs, call):
        y = next_function(*args, **kwargs)
        if call.module.name != "embedding" or call.method_name != "__call__":
            return y
        return y + offset["inputs" if len(args) > 3 and args[3] else "tokens"]

    read = {name: array for name, array in batch.items() if name not in ("targets", "weights")}
    with nn.intercept_methods(add):
        logits = model.apply({"params": params}, **read).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen) * batch["weights"]


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_pair_in_company_is_a_pair_alone(family, tiny):
    one = tiny(family)
    two_stacks = len(one.spec.stacks) > 1
    found = {}
    for packed in (True, False):
        batch = rows_of(packed, two_stacks)
        sides = ("inputs", "tokens") if two_stacks else ("tokens",)
        zero = {name: jnp.zeros((*batch[name].shape, one.spec.d_model)) for name in sides}
        values = np.asarray(losses(one.model(), one.params, batch, zero))
        found[packed] = {}
        for row in range(len(values)):
            for segment in range(1, batch["segments"][row].max() + 1):
                own = (batch["segments"][row] == segment) & (batch["weights"][row] > 0)
                found[packed][tuple(batch["targets"][row, own].tolist())] = values[row, own]
        if not packed:
            assert len(batch["tokens"]) == 12
            continue
        assert len(batch["tokens"]) <= 8 and batch["segments"].max() >= 3

        # The loss of the second pairs of all rows, by what is read at every place.
        def second(offset, batch=batch):
            return (losses(one.model(), one.params, batch, offset) * (batch["segments"] == 2)).sum()

        gradients = jax.grad(second)(zero)
        for name, segments in (("inputs", "input_segments"), ("tokens", "segments")):
            if name in gradients:
                size = np.abs(np.asarray(gradients[name])).max(-1)
                assert (size[batch[segments] != 2] == 0).all() and (size[batch[segments] == 2] > 0).mean() > 0.8
    assert len(found[True]) == 12 and found[True].keys() == found[False].keys()
    for pair, alone in found[False].items():
        np.testing.assert_allclose(found[True][pair], alone, rtol=1e-4, atol=1e-4)
