"""What layers with experts report in the training step: losses, figures, and biases that move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.common import RATE, SMOOTH, assert_trees_close, start, trainer_of

from taxonomy import spec, stack
from taxonomy.layers import routing
from taxonomy.layers.routing import Routing
from taxonomy.model import build
from taxonomy.ops.cross_entropy import Sums

from . import plain_experts

# Two layers of a repeat and one beside it, each with a loss; without jitter, which is drawn anew for every microbatch.
SECTION = dict(
    vocab=32,
    d_model=16,
    context=16,
    norm="rmsnorm(eps=1e-6)",
    position="rope",
    attention="mha(heads=2)",
    first="moe(experts=6, top_k=2, router=softmax(balance=0.3, z=0.1), expert=relu(d_ff=8), capacity=0.5)",
    rest="moe(experts=4, top_k=2, router=sigmoid(bias_rate=0.01, balance=0.2), expert=relu(d_ff=8))",
    blocks=dict(one="pre(attention, first)", other="pre(attention, rest)"),
    decoder="one + 2*other",
    head="untied",
    initializer="normal(std=0.3)",
)
MODEL = spec.model(SECTION)
LAYERS = (("decoder", "0_one", "first"), ("decoder", "1_repeat", "0_other", "rest"))


@pytest.fixture
def batch(packed):
    """Four rows that count for different numbers of targets."""
    batch = packed(MODEL.vocab, time=16, rows=4, longest=12, padding=2)._asdict()
    batch["weights"][1, 3:] = 0.0
    return batch


@pytest.fixture
def params(random_params):
    return random_params(build(MODEL), jnp.zeros((1, 8), jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def sums_of(model, params, batch):
    return model.apply({"params": params}, **batch, method="loss", mutable=["routing"])


def at(tree, path):
    return functools.reduce(lambda found, name: found[name], path, tree)


def test_losses_count_as_often_as_their_row_has_weight(params, batch):
    """Added to the loss when they are asked for; the other sums stay."""
    model = build(MODEL)
    plain = jax.jit(lambda: model.apply({"params": params}, **batch, method="loss"))()
    assert plain.routing == {}
    sums, state = sums_of(model, params, batch)
    own = sum(float((np.atleast_2d(one.loss_B) * batch["weights"].sum(1)).sum()) for _, one in routing.layers(state["routing"]))
    assert own > 0.1 * float(plain.loss)
    np.testing.assert_allclose(sums.loss, plain.loss + own, rtol=1e-5)
    np.testing.assert_allclose(sums.nll, plain.nll, rtol=1e-6)
    assert dict(routing.layers(sums.routing)).keys() == set(LAYERS)
    # A row's loss is the same in whatever batch.
    rows = [sums_of(model, params, {name: a[row : row + 1] for name, a in batch.items()})[0].loss for row in range(4)]
    np.testing.assert_allclose(sum(rows), sums.loss, rtol=1e-5)


def test_scan_is_loop(params, batch):
    scanned, _ = sums_of(build(MODEL), params, batch)
    unrolled = {**params, "decoder": stack.unstack(params["decoder"], MODEL.decoder)}
    looped, _ = sums_of(build(MODEL, scan=False), unrolled, batch)
    np.testing.assert_allclose(scanned.loss, looped.loss, rtol=1e-6)
    found = {"decoder": stack.restack(looped.routing["decoder"], MODEL.decoder)}
    assert_trees_close(found, scanned.routing, rtol=1e-5)
    weight = scanned.weight.sum()
    expected = routing.figures(scanned.routing, weight)
    for name, figure in routing.figures(looped.routing, weight).items():
        np.testing.assert_allclose(figure, expected[name], rtol=1e-5)


def made(load, dropped=0.0, entropy=1.0, tokens=4.0, loss=0.5, bias_rate=None) -> Routing:
    load = jnp.asarray(load, jnp.float32)
    full = lambda value: jnp.full(load.shape[:-1], value)  # noqa: E731
    return Routing(full(loss), load, full(dropped), full(entropy), full(tokens), bias_rate)


def test_figures():
    one, two = made([2, 6], dropped=2.0, entropy=3.0), made([[8, 0], [4, 4]], dropped=1.0)
    tree = {"decoder": {"0_a": {"mlp": {"sums": one}}, "1_repeat": {"0_b": {"mlp": {"sums": two}}}}}
    found = routing.figures(tree, jnp.asarray(5.0))
    expected = {
        "router_loss": 3 * 0.5 / 5,
        "router_entropy": (3 + 1 + 1) / 12,
        "dropped_fraction": (2 + 1 + 1) / 24,
        "expert_load": [(0.5 + 2 + 1) / 3, (1.5 + 0 + 1) / 3],
        "expert_load_max": 2.0,
        "expert_load_min": 0.0,
    }
    assert found.keys() == expected.keys()
    for name, figure in expected.items():
        np.testing.assert_allclose(found[name], figure, rtol=1e-6)
    # Layers with different numbers of experts have no mean load; nothing has no figures.
    assert "expert_load" not in routing.figures({"a": {"sums": one}, "b": {"sums": made([1, 2, 3])}}, jnp.asarray(5.0))
    assert routing.figures({}, jnp.asarray(5.0)) == {}


def test_biases_move_against_the_load():
    """b_i + u sign(mean load - load_i), in every layer of a repeat by its own (arXiv:2408.15664, Algorithm 1)."""
    biases = np.array([[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]], np.float32)
    tree = {"decoder": {"0_repeat": {"0_b": {"mlp": {"sums": made([[5, 3, 1], [3, 3, 3]], bias_rate=0.1)}}}}}
    tree["decoder"]["1_a"] = {"mlp": {"sums": made([1, 2])}}
    params = {"decoder": {"0_repeat": {"0_b": {"mlp": {"router": {"selection_bias": biases, "kernel": 1.0}}}}, "1_a": 2.0}}
    found = routing.balanced(params, tree)
    moved = found["decoder"]["0_repeat"]["0_b"]["mlp"]["router"]
    np.testing.assert_allclose(moved["selection_bias"], biases + np.array([[-0.1, 0, 0.1], [0, 0, 0]]), rtol=1e-6)
    assert (moved["kernel"], found["decoder"]["1_a"]) == (1.0, 2.0)


def test_nothing_to_add():
    sums = Sums(*jnp.ones((4, 1)))
    assert routing.added(sums, None) is sums and routing.added(sums, {}) is sums


def test_several_steps_of_the_trainer(params, batch):
    """In microbatches as at once: the same figures, and biases moved by the loads of the whole batch and by nothing else."""
    trainer = trainer_of(MODEL, SMOOTH, 1.0)
    whole, parts = start(trainer, params), start(trainer, params)
    path = LAYERS[1]
    for _ in range(3):
        before = np.array(at(whole.params, path)["router"]["selection_bias"])
        now = jax.tree.map(np.array, whole.params)
        whole, metrics = trainer.step(whole, batch, RATE)
        parts, found = trainer.step(parts, batch, RATE, 2)
        assert_trees_close(found, metrics, rtol=1e-5)
        assert_trees_close(parts.params, whole.params, rtol=1e-4)
        # The loss has no gradient by the biases, and no decay acts on them.
        reported = at(sums_of(build(MODEL), now, batch)[0].routing, path)["sums"]
        load = np.asarray(reported.load_E)
        moved = np.array(at(whole.params, path)["router"]["selection_bias"]) - before
        np.testing.assert_allclose(moved, 0.01 * np.sign(load.mean(1, keepdims=True) - load), atol=1e-6)
        assert np.all(np.ptp(load, axis=1) > 0)
        sums, _ = sums_of(build(MODEL), now, batch)
        weight = batch["weights"].sum()
        for name, figure in routing.figures(sums.routing, weight).items():
            np.testing.assert_allclose(metrics[name], figure, rtol=1e-4)
        np.testing.assert_allclose(metrics["objective"], metrics["loss"] + metrics["router_loss"], rtol=1e-5)
        assert metrics["dropped_fraction"] > 0.05


def test_ids_and_domains_reach_the_routers(random_params):
    """Of the encoder those of its inputs; domains are those of the rows of both."""
    changes = {
        "first": "moe(experts=4, top_k=1, router=hash(seed=5), expert=relu(d_ff=8))",
        "rest": "moe(experts=4, top_k=1, router=domain, expert=relu(d_ff=8))",
        "encoder": "one + other",
        "decoder": "one + other",
        "mask": "full",
    }
    model = build(spec.model(SECTION | changes))
    inputs, tokens = (np.random.default_rng(seed).integers(0, 32, (2, time)) for seed, time in ((0, 12), (1, 9)))
    params = random_params(model, inputs, tokens)
    batch = {"inputs": inputs, "tokens": tokens, "targets": tokens}
    for domains in (None, np.array([2, 1])):
        sums, _ = sums_of(model, params, batch if domains is None else {**batch, "domains": domains})
        for name, ids in (("encoder", inputs), ("decoder", tokens)):
            router = {"seed": 5, "experts": 4, "name": "hash"}
            rows = [plain_experts.Row(None, [True] * len(row), row.tolist(), 0, False, {}) for row in ids]
            by_hash = np.sum([plain_experts.load(plain_experts.ROUTERS["hash"](router, {}, row), 4) for row in rows], 0)
            np.testing.assert_array_equal(at(sums.routing, (name, "0_one", "first"))["sums"].load_E, by_hash)
            time = ids.shape[1]
            by_domain = [2 * time, 0, 0, 0] if domains is None else [0, time, time, 0]
            np.testing.assert_array_equal(at(sums.routing, (name, "1_other", "rest"))["sums"].load_E, by_domain)
