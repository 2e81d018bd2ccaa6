"""Models with an encoder: who sees whom, packed rows on both sides, and execution that changes nothing."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.common import RATE, SMOOTH, assert_trees_close, start, trainer_of

INPUTS, TIME, ROWS = 24, 20, 4


class Pairs(NamedTuple):
    """A batch for a model with an encoder; `split` are the lengths of the first document on each side."""

    batch: dict[str, np.ndarray]
    split: tuple[int, int]


@functools.cache
def pairs(vocab: int, two_stacks: bool, packed: bool = False) -> Pairs:
    generator = np.random.default_rng(0)
    batch: dict[str, Any] = {}
    lengths = {"inputs": INPUTS, "tokens": TIME} if two_stacks else {"tokens": TIME}
    split = (9, 8)
    for (name, length), first in zip(lengths.items(), split[-len(lengths) :], strict=True):
        batch[name] = generator.integers(0, vocab, (ROWS, length), dtype=np.int32)
        if packed:
            prefix = "input_" if name == "inputs" else ""
            place = np.concatenate([np.arange(first), np.arange(length - first)])
            batch[f"{prefix}positions"] = np.tile(place, (ROWS, 1)).astype(np.int32)
            batch[f"{prefix}segments"] = np.tile(1 + (np.arange(length) >= first), (ROWS, 1)).astype(np.int32)
    return Pairs(batch, split)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch):
    return model.apply({"params": params}, **batch)


def of(one) -> Pairs:
    return pairs(one.spec.vocab, len(one.spec.stacks) > 1)


def test_who_sees_whom(encoder_family, tiny, nudged):
    """No decoder position sees a later one; all see the whole input; an encoder sees both ways; no row sees another."""
    one = tiny(encoder_family)
    model, (batch, _) = one.model(), of(one)
    place = 11

    @jax.jit
    def gradients(params):
        def logits(offset):
            return _offset(model, params, batch, offset)

        zero = {name: jnp.zeros((*batch[name].shape, one.spec.d_model)) for name in batch}
        found, pull = jax.vjp(logits, zero)
        direction = jax.random.normal(jax.random.key(1), found.shape[-1:])
        return pull(jnp.zeros_like(found).at[1, place].set(direction))[0]

    seen = {name: np.any(g != 0, -1) for name, g in gradients(one.params).items()}
    for name, rows in seen.items():
        assert not rows[np.array([0, 2, 3])].any(), name
    if "inputs" in batch:
        assert seen["inputs"][1].all()
        assert seen["tokens"][1, : place + 1].all() and not seen["tokens"][1, place + 1 :].any()
    else:
        assert seen["tokens"][1].all()


def _offset(model, params, batch, offset):
    """Logits with offsets added to the embedded tokens of each side."""
    import flax.linen as nn

    def add(next_call, args, kwargs, call):
        y = next_call(*args, **kwargs)
        if call.module.name != "embedding" or call.method_name != "__call__":
            return y
        return y + offset["inputs" if args[3] else "tokens"]

    with nn.intercept_methods(add):
        return model.apply({"params": params}, **batch)


def test_packed_is_unpacked(encoder_family, tiny):
    """Two examples in a row, on both sides, are the two examples."""
    one = tiny(encoder_family)
    batch, split = pairs(one.spec.vocab, len(one.spec.stacks) > 1, packed=True)
    together = apply(one.model(), one.params, batch)
    names = [name for name in ("inputs", "tokens") if name in batch]
    for part in (0, 1):
        cut = {
            n: batch[n][:, :first] if part == 0 else batch[n][:, first:]
            for n, first in zip(names, split[-len(names) :], strict=True)
        }
        alone = apply(one.model(), one.params, cut)
        rows = slice(0, split[-1]) if part == 0 else slice(split[-1], None)
        np.testing.assert_allclose(together[:, rows], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("execution", [{"scan": False}, {"remat": "full"}, {"remat": "dots"}, {"attention": "reference"}], ids=str)
def test_execution_changes_nothing(encoder_family, tiny, execution):
    from taxonomy import stack

    one = tiny(encoder_family)
    batch = of(one).batch
    expected = apply(one.model(), one.params, batch)
    params = one.params
    if execution.get("scan") is False:
        params = {**params, **{name: stack.unstack(params[name], layers) for name, layers in one.spec.stacks.items()}}
    np.testing.assert_allclose(apply(one.model(**execution), params, batch), expected, rtol=1e-4, atol=1e-5)


def _training_batch(one) -> dict[str, np.ndarray]:
    batch = dict(pairs(one.spec.vocab, len(one.spec.stacks) > 1, packed=True).batch)
    batch = {name: np.tile(a, (2, 1)) for name, a in batch.items()}
    generator = np.random.default_rng(2)
    batch["targets"] = generator.integers(0, one.spec.vocab, batch["tokens"].shape, dtype=np.int32)
    batch["weights"] = (generator.random(batch["tokens"].shape) < 0.7).astype(np.float32)
    return batch


def test_many_devices_and_microbatches_are_one_step(encoder_family, tiny):
    one = tiny(encoder_family)
    batch = _training_batch(one)
    alone = trainer_of(one.spec, SMOOTH, 1.0)
    expected, metrics = alone.step(start(alone, one.params), alone.put(batch), RATE)
    parts, found = alone.step(start(alone, one.params), alone.put(batch), RATE, 4)
    assert_trees_close(parts.params, expected.params)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    many = trainer_of(one.spec, SMOOTH, 1.0, mesh="data:2,fsdp:2,tensor:2", devices=8)
    spread, found = many.step(start(many, one.params), many.put(batch), RATE)
    assert_trees_close(spread.params, expected.params, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)


def test_an_encoder_may_have_a_loss_of_its_own(tiny):
    """AlphaCode, section 4.1: a loss on the encoder's tokens is added to the decoder's."""
    one = tiny("alphacode")
    batch = of(one).batch
    generator = np.random.default_rng(3)
    own = {
        "input_targets": generator.integers(0, one.spec.vocab, batch["inputs"].shape, dtype=np.int32),
        "input_weights": (generator.random(batch["inputs"].shape) < 0.15).astype(np.float32),
    }
    targets = generator.integers(0, one.spec.vocab, batch["tokens"].shape, dtype=np.int32)
    loss = lambda **more: one.model().apply({"params": one.params}, **batch, targets=targets, **more, method="loss")  # noqa: E731
    plain, both = loss(), loss(**own)
    np.testing.assert_allclose(both.weight, plain.weight + own["input_weights"].sum(1))
    assert both.loss > plain.loss


def test_what_a_model_reads_is_checked(tiny):
    from taxonomy.errors import UserError

    two, alone = tiny("t5"), tiny("bert")
    tokens = np.zeros((1, 4), np.int32)
    with pytest.raises(UserError, match="inputs: required by a model that is encoder-decoder"):
        two.model().apply({"params": two.params}, None, tokens)
    with pytest.raises(UserError, match="inputs: not read by a model that is encoder"):
        alone.model().apply({"params": alone.params}, tokens, inputs=tokens)
