"""The training step: what it computes, what it refuses to apply, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taxonomy import registry, spec
from taxonomy.model import build
from taxonomy.ops.losses import PLAIN
from taxonomy.training.step import Trainer

from .common import RATE, SMOOTH, assert_trees_close, assert_trees_equal, start, trainer_of, uneven_batch, without_key

SMALL = dict(
    vocab=32,
    d_model=16,
    context=16,
    norm="layernorm(eps=1e-5)",
    position="rope",
    attention="gqa(heads=4, kv_heads=2)",
    mlp="gelu(d_ff=24, bias=True)",
    blocks=dict(block="pre(attention, mlp)"),
    decoder="2*block",
    head="untied",
    initializer="normal(std=0.2)",
)


def small(optimizer=SMOOTH, clip=1.0, loss="cross_entropy", **changes) -> Trainer:
    return trainer_of(spec.model({**SMALL, **changes}), optimizer, clip, loss)


@pytest.fixture
def params(random_params):
    """Parameters of the small model in which nothing is zero or one."""
    return random_params(build(spec.model(SMALL)), jnp.zeros((1, 8), jnp.int32))


@pytest.fixture
def batch(packed):
    return packed(SMALL["vocab"], time=16, rows=4, longest=12, padding=2)._asdict()


@functools.partial(jax.jit, static_argnums=(0, 3))
def mean_loss(trainer, params, batch, loss=PLAIN, key=None):
    """The mean over real tokens, without the trainer."""
    rngs = {"dropout": key} if key is not None else None
    sums = trainer.model.apply({"params": params}, **batch, loss=loss, train=key is not None, rngs=rngs, method="loss")
    return sums.loss / sums.weight.sum()


@functools.partial(jax.jit, static_argnums=0)
def logits_of(trainer, params, batch):
    return trainer.model.apply({"params": params}, batch["tokens"], batch["positions"], batch["segments"])


@pytest.mark.parametrize("family", ["gpt3", "palm", "command_a"])
def test_accumulated_is_the_full_batch(family, tiny, packed):
    """Also when the parts hold different numbers of real tokens; for the parameters as for the moments.

    Every family accumulates over many devices, in `test_sharding`.
    """
    one = tiny(family)
    batch = uneven_batch(packed, one.spec.vocab)
    weights = batch["weights"].sum(1)
    assert weights.max() > 5 * weights.min() > 0
    trainer = trainer_of(one.spec, SMOOTH, 1.0)
    (full, expected), (parts, found) = (trainer.step(start(trainer, one.params), batch, RATE, parts) for parts in (1, 4))
    assert float(expected["grad_norm"]) > 1.0  # clipping acts on the sum, not on the parts
    assert_trees_close(found, expected, rtol=1e-5)
    assert_trees_close(parts.params, full.params)
    for moment in (lambda state: state.opt_state[0].mu, lambda state: jax.tree.map(np.sqrt, state.opt_state[0].nu)):
        assert_trees_close(moment(parts), moment(full))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), full.params, one.params)
    assert np.median(jax.tree.leaves(moved)) > 1e-4


Z_LOSS = 0.01


@pytest.mark.parametrize(
    ("clip", "sentence", "gain"),
    [(1.0, "cross_entropy", 1.0), (1.0, "cross_entropy", 0.02), (None, f"cross_entropy(z={Z_LOSS})", 1.0), (None, "gold", 1.0)],
)
def test_the_step_is_the_clipped_gradient_of_the_mean_through_the_optimizer(params, batch, clip, sentence, gain):
    trainer = small(clip=clip, loss=sentence)
    params = {**params, "final_norm": jax.tree.map(lambda a: a * gain, params["final_norm"])}
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: mean_loss(trainer, p, batch, trainer.loss)))(params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    if clip:
        assert norm > 1.2 if gain == 1.0 else norm < 0.8  # one is clipped, the other is not
    factor = min(1.0, clip / norm) if clip else 1.0
    decays = jax.tree.map(lambda d: d.role not in ("gain", "bias"), trainer.declared, is_leaf=lambda x: hasattr(x, "role"))

    def adamw(p, g, decay):
        g = g * factor
        return p - RATE * (g / (abs(g) + 1e-2) + 0.1 * p * decay)

    expected = jax.tree.map(adamw, params, gradient, decays)
    state, metrics = trainer.step(start(trainer, params), batch, RATE)
    assert_trees_close(state.params, expected, rtol=1e-5)
    assert_trees_close(state.opt_state[0].mu, jax.tree.map(lambda g: 0.1 * factor * g, gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], mean_loss(trainer, params, batch), rtol=1e-5)
    np.testing.assert_allclose(metrics["objective"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["param_norm"], optax.tree.norm(state.params), rtol=1e-6)
    logits = logits_of(trainer, params, batch)
    correct = ((logits.argmax(-1) == batch["targets"]) * batch["weights"]).sum() / batch["weights"].sum()
    np.testing.assert_allclose(metrics["accuracy"], correct, rtol=1e-6)
    assert int(state.step) == 1 and int(metrics["skipped"]) == 0


def spoilt(batch, row, value):
    weights = batch["weights"].copy()
    weights[row, 0] = value
    return {**batch, "weights": weights}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("row", "parts"), [(0, 1), (0, 2), (3, 2)])
def test_an_update_that_is_not_finite_is_left_out(params, batch, value, row, parts):
    trainer = small()
    bad = spoilt(batch, row, value)
    once, _ = trainer.step(start(trainer, params), batch, RATE, parts)
    kept = jax.tree.map(np.array, (once.params, once.opt_state))
    skipped, metrics = trainer.step(once, bad, RATE, parts)
    assert_trees_equal((skipped.params, skipped.opt_state), kept)
    assert (int(skipped.step), int(skipped.skipped), int(metrics["skipped"])) == (2, 1, 1)
    again, metrics = trainer.step(skipped, bad, RATE, parts)
    assert_trees_equal((again.params, again.opt_state), kept)
    assert (int(again.step), int(again.skipped), int(metrics["skipped"])) == (3, 2, 2)
    # What follows is what would have followed without the bad batches, and the count starts again.
    after, metrics = trainer.step(again, batch, RATE, parts)
    plain, _ = trainer.step(trainer.step(start(trainer, params), batch, RATE, parts)[0], batch, RATE, parts)
    assert_trees_equal((after.params, after.opt_state), (plain.params, plain.opt_state))
    assert int(metrics["skipped"]) == 0 and np.isfinite(metrics["loss"])


@pytest.mark.parametrize("entry", registry.entries("optimizer"), ids=lambda entry: entry.name)
def test_no_optimizer_keeps_what_is_not_finite(params, batch, entry):
    trainer = small(entry.name)
    state = start(trainer, params)
    kept = jax.tree.map(np.array, (state.params, state.opt_state))
    state, _ = trainer.step(state, spoilt(batch, 1, np.nan), RATE)
    assert_trees_equal((state.params, state.opt_state), kept)


def test_the_state_is_donated(params, batch):
    trainer = small()
    before = start(trainer, params)
    arrays = jax.tree.leaves(before)
    after, _ = trainer.step(before, batch, RATE)
    assert all(a.is_deleted() for a in arrays)
    assert not any(a.is_deleted() for a in jax.tree.leaves(after))


def test_z_loss_is_in_the_objective_and_nowhere_else(params, batch):
    trainer = small(clip=None, loss=f"cross_entropy(z={Z_LOSS})")
    logits = logits_of(trainer, params, batch)
    log_z = jax.nn.logsumexp(logits, -1)
    penalty = Z_LOSS * float((log_z**2 * batch["weights"]).sum() / batch["weights"].sum())
    assert penalty > 0.01
    _, metrics = trainer.step(start(trainer, params), batch, RATE)
    np.testing.assert_allclose(metrics["objective"] - metrics["loss"], penalty, rtol=1e-4)
    sums = trainer.evaluate(jax.tree.map(jnp.array, params), batch)
    np.testing.assert_allclose(sums.loss, sums.nll.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums.nll / sums.weight, metrics["loss"], rtol=1e-5)


DROPOUT = dict(attention="gqa(heads=4, kv_heads=2, dropout=0.3)", embedding="table(dropout=0.3)")


def test_dropout_differs_from_step_to_step_and_can_be_repeated(params, batch):
    trainer = small(**DROPOUT)
    step = lambda number: trainer.step(start(trainer, params, number), batch, RATE)  # noqa: E731
    (first, first_metrics), (second, second_metrics), (_, other) = step(5), step(5), step(6)
    assert_trees_equal((without_key(first), first_metrics), (without_key(second), second_metrics))
    plain = mean_loss(trainer, params, batch)
    losses = [float(first_metrics["loss"]), float(other["loss"]), float(plain)]
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-3
    # Another seed, another mask at the same step.
    state = start(trainer, params, 5).replace(key=jax.random.key(4))
    assert abs(float(trainer.step(state, batch, RATE)[1]["loss"]) - losses[0]) > 1e-3
    sums = trainer.evaluate(jax.tree.map(jnp.array, params), batch)
    np.testing.assert_allclose(sums.nll / sums.weight, plain, rtol=1e-5)


def test_each_microbatch_drops_its_own(params, batch):
    """Two equal rows in two parts: the loss is the mean of two different masks, each reproducible by its key."""
    trainer = small(**DROPOUT)
    row = {name: array[:1] for name, array in batch.items()}
    rows = {name: np.concatenate([array, array]) for name, array in row.items()}
    key = jax.random.fold_in(jax.random.key(3), 7)
    apart = [float(mean_loss(trainer, params, row, key=jax.random.fold_in(key, part))) for part in range(2)]
    assert abs(apart[0] - apart[1]) > 1e-3
    _, metrics = trainer.step(start(trainer, params, 7), rows, RATE, 2)
    np.testing.assert_allclose(metrics["loss"], np.mean(apart), rtol=1e-5)


RATES = {"adafactor": 0.05, "lion": 3e-3, "muon": 0.05}


def losses_of(trainer, state, batch, rate, steps=30):
    found = []
    for _ in range(steps):
        state, metrics = trainer.step(state, batch, rate)
        found.append(float(metrics["loss"]))
    assert int(state.step) == steps and int(state.skipped) == 0
    return found


@pytest.mark.parametrize("entry", registry.entries("optimizer"), ids=lambda entry: entry.name)
def test_every_optimizer_learns_a_batch(params, batch, entry):
    trainer = small(entry.name)
    losses = losses_of(trainer, start(trainer, params), batch, RATES.get(entry.name, RATE))
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.slow_by_family
def test_every_family_learns_a_batch(family, tiny, packed):
    one = tiny(family)
    batch = uneven_batch(packed, one.spec.vocab)
    trainer = trainer_of(one.spec, SMOOTH, 1.0)
    losses = losses_of(trainer, start(trainer, one.params), batch, 0.03, steps=8)
    assert losses[-1] < 0.8 * losses[0], losses


def test_at_a_rate_of_zero_nothing_moves(params, batch):
    for entry in registry.entries("optimizer"):
        trainer = small(entry.name)
        state, _ = trainer.step(start(trainer, params), batch, 0.0)
        assert_trees_equal(state.params, params)


def test_a_seed_makes_a_state():
    trainer = small()
    one, again, other = trainer.init(0), trainer.init(0), trainer.init(1)
    assert_trees_equal(without_key(one), without_key(again))
    kernels = [s.params["decoder"]["0_repeat"]["0_block"]["attention"]["query"] for s in (one, other)]
    assert not np.allclose(*kernels)
    # The key that masks are drawn from is not the one parameters were drawn from.
    assert not np.array_equal(jax.random.key_data(one.key), jax.random.key_data(jax.random.key(0)))
    assert int(one.step) == 0 and int(one.skipped) == 0


def test_a_repeat_in_a_repeat_is_born():
    state = small(decoder="2*(2*block + block)").init(0)
    query = state.params["decoder"]["0_repeat"]["0_repeat"]["0_block"]["attention"]["query"]
    assert query.shape == (2, 2, 16, 4, 4)


def test_another_rate_is_no_other_program(batch):
    trainer = small()
    state, _ = trainer.step(trainer.init(0), batch, 0.1)
    compiled = trainer._step._cache_size()
    for rate in (0.2, 1e-5, 1):
        state, _ = trainer.step(state, batch, rate)
    assert trainer._step._cache_size() == compiled


def test_sums_are_apart_for_each_part(params, batch):
    """Also over microbatches and devices; part 2 of 3 has no row."""
    batch = {**batch, "part": np.array([1, 0, 1, 1], np.int32)}
    trainer = trainer_of(spec.model(SMALL), SMOOTH, 1.0, mesh="data:2", devices=2, parts=(3, 1))
    nll, correct, weight = expected = np.zeros((3, 3))
    for row, part in enumerate(batch["part"]):
        alone = {name: array[row : row + 1] for name, array in batch.items() if name != "part"}
        sums = trainer.model.apply({"params": params}, **alone, method="loss")
        expected[:, part] += float(sums.nll[0]), float(sums.correct[0]), float(sums.weight[0])
    assert 0 < weight[0] < weight[1] and weight[2] == 0
    found = trainer.evaluate(jax.tree.map(jnp.array, params), batch)
    np.testing.assert_allclose([found.nll, found.correct, found.weight], expected, rtol=1e-5)
    for microbatches in (1, 2):
        _, metrics = trainer.step(start(trainer, params), batch, RATE, microbatches)
        np.testing.assert_allclose(metrics["parts"], expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], nll.sum() / weight.sum(), rtol=1e-5)
        np.testing.assert_allclose(metrics["accuracy"], correct.sum() / weight.sum(), rtol=1e-5)
