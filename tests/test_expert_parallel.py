"""Experts over many devices are those of one, by an all-to-all or a gather of tokens, and their kernels stay where they are."""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from training.common import RATE, assert_trees_close, results, start, trainer_of, uneven_batch

from taxonomy import config as config_lib
from taxonomy import registry, sharding, spec
from taxonomy.layers.context import Context

ROWS, TIME, WIDTH, HIDDEN = 8, 12, 16, 40
SOFTMAX, SIGMOID = "softmax(renormalize=True, balance=0.01, z=0.001)", "sigmoid(renormalize=True, bias_rate=0.01)"
MOST = "data:2,expert:2,tensor:2"


@functools.cache
def layer(router=SOFTMAX, capacity=None, number=8, bias=False, weigh="output"):
    """A layer of so many experts alone, random parameters, and inputs some of which are padding."""
    expert = f"swiglu(d_ff={HIDDEN}, bias={bias})"
    sentence = f"moe(experts={number}, top_k=2, router={router}, expert={expert}, capacity={capacity}, weigh='{weigh}')"
    scope = spec.Scope("mlp", {"d_model": WIDTH}, {"initializer": "normal(std=1)"})
    module = registry.instantiate(spec.resolve(sentence, ("feedforward",), scope))
    generator = np.random.default_rng(0)
    positions = np.tile(np.arange(TIME, dtype=np.int32), (ROWS, 1))
    positions[1, 5:] = -1
    x = generator.standard_normal((ROWS, TIME, WIDTH), np.float32)
    declared = jax.eval_shape(module.init, jax.random.key(0), x, Context(positions))["params"]
    draw = lambda box: 0.3 * generator.standard_normal(box.value.shape, np.float32)  # noqa: E731
    params = jax.tree.map(draw, declared, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    return module, declared, params, x, positions


@contextlib.contextmanager
def on(text):
    mesh = sharding.make_mesh(text, jax.devices())
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.flax_rules()):
        yield mesh


def program(module, experts, positions):
    """Output, what is reported, and gradients for parameters and inputs."""

    def scalar(params, x):
        y, sown = module.apply({"params": params}, x, Context(positions, train=True, experts=experts), mutable=["routing"])
        (routing,) = sown["routing"].values()
        return jnp.sum(jnp.sin(y)) + routing.loss_B.sum(), (y, routing)

    return jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)


def compiled(text, experts, rows, options):
    """The layer's program over a mesh, and its inputs in their places."""
    module, declared, params, x, positions = layer(**options)
    with on(text) as mesh:
        places = sharding.parameter_shardings(declared, mesh)
        batch = NamedSharding(mesh, sharding.partition(("batch",), (rows,), mesh))
        inputs = jax.device_put((params, x[:rows]), (places, batch))
        return jax.jit(program(module, experts, positions[:rows])).lower(*inputs).compile(), inputs


def assert_as_alone(text, experts="auto", rows=ROWS, **options):
    """The layer over a mesh computes what it does on one device; returns the program's text."""
    module, _, params, x, positions = layer(**options)
    expected = jax.jit(program(module, experts, positions[:rows]))(params, x[:rows])
    run, inputs = compiled(text, experts, rows, options)
    assert_trees_close(run(*inputs), expected, rtol=1e-5)
    return run.as_text()


def kernels_of_others(text, experts=8):
    """All-gathers that make kernels of more experts than a device has: of all, whole or in parts of their features."""
    parts = lambda size: {size, size // 2, size // 4}  # noqa: E731
    kernels = ({experts, *parts(WIDTH), *parts(HIDDEN)}, parts(WIDTH), parts(HIDDEN))
    return {
        shape
        for shape in results(text, "all-gather")
        if len(shape) == 3 and experts in shape and kernels[1] & set(shape) and kernels[2] & set(shape)
    }


@pytest.mark.parametrize("text", [MOST, "fsdp:2,expert:4"])
@pytest.mark.parametrize("capacity", [1.0, None])
def test_experts_over_devices_are_those_of_one(text, capacity):
    """With tokens dropped, and none; expert kernels are gathered from the devices that share them, if at all."""
    program = assert_as_alone(text, capacity=capacity)
    assert bool(results(program, "all-to-all")) == (capacity is not None)
    assert not kernels_of_others(program)
    of_own = (8 // 4, WIDTH, HIDDEN)
    assert (of_own in results(program, "all-gather")) == ("fsdp" in text)
    # Nor are anybody's scores gathered, as they would be for the partitioner's top_k.
    assert (ROWS, TIME, 8) not in results(program, "all-gather")


@pytest.mark.parametrize("capacity", [1.0, None])
def test_kernels_that_are_gathered_are_found(capacity, monkeypatch):
    """With a rule that puts features where experts should be."""
    monkeypatch.setitem(sharding.RULES, "experts", ())
    monkeypatch.setitem(sharding.RULES, "embed", ("expert",))
    run, _ = compiled("data:2,expert:4", "auto", ROWS, dict(capacity=capacity))
    assert kernels_of_others(run.as_text()) == {(8, WIDTH, HIDDEN), (8, HIDDEN, WIDTH)}
    assert not results(run.as_text(), "all-to-all")


@pytest.mark.parametrize(
    "options",
    [
        dict(experts="ragged"),
        dict(bias=True, weigh="input"),
        dict(bias=True, weigh="input", capacity=1.0),
    ],
    ids=["ragged", "biases", "biases with a capacity"],
)
def test_other_layers_of_experts(options):
    assert_as_alone(MOST, **options)


@pytest.mark.parametrize("capacity", [1.0, None])
def test_what_does_not_divide_stands_on_all(capacity):
    """Six experts on four devices are computed by each of them; and so is a batch of three rows, by those who have the experts."""
    program = assert_as_alone("fsdp:2,expert:4", number=6, capacity=capacity)
    assert not results(program, "all-to-all")
    program = assert_as_alone(MOST, rows=3, capacity=capacity)
    assert not results(program, "all-to-all") and not kernels_of_others(program)


@pytest.mark.parametrize(
    ("text", "mlp"),
    [
        (MOST, f"moe(experts=4, top_k=2, router={SIGMOID}, expert=swiglu(d_ff={HIDDEN}), capacity=1.0)"),
        ("fsdp:2,expert:4", f"moe(experts=4, top_k=2, router={SOFTMAX}, expert=swiglu(d_ff={HIDDEN}), shared=swiglu(d_ff=24))"),
    ],
)
def test_a_step_of_many_devices_is_one_of_one(text, mlp, packed):
    """With what the router is watched by, and the bias that it is corrected by."""
    overrides = {"model.mlp": mlp, "model.decoder": "block", "model.d_model": 32}
    model = spec.model(config_lib.load_config("llama:tiny", overrides).model.to_dict())
    batch = uneven_batch(packed, model.vocab)
    alone, many = trainer_of(model), trainer_of(model, mesh=text, devices=8)
    params = jax.device_get(alone.init(1).params)
    (expected, told), (found, told_of_many) = (t.step(start(t, params), t.put(batch), RATE, 1) for t in (alone, many))
    assert_trees_close(found.params, expected.params, rtol=1e-5)
    assert_trees_close(told_of_many, told, rtol=1e-5)
    assert told["expert_load_max"] > 1.02 and (told["dropped_fraction"] > 0) == ("capacity" in mlp)
    if "bias_rate" in mlp:
        bias = found.params["decoder"]["0_block"]["mlp"]["router"]["selection_bias"]
        assert np.abs(bias).max() == np.float32(0.01)
