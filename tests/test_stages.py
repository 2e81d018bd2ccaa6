"""Layers in stages compute what they compute without, and nothing moves between stages but what passes through them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.common import RATE, SMOOTH, assert_trees_close, start, trainer_of, uneven_batch

from taxonomy import config as config_lib
from taxonomy import pipeline, registry, sharding, spec
from taxonomy.errors import UserError
from taxonomy.inference.decode import generate_tokens
from taxonomy.layers.context import Context
from taxonomy.layers.params import Declared
from taxonomy.model import build
from taxonomy.scaling import accelerators
from taxonomy.scaling.accounting import forward_flops_per_token
from taxonomy.scaling.estimate import estimate
from taxonomy.training.plan import make_plan
from taxonomy.training.step import Trainer

STEPS = 5
DECODER = dict(
    vocab=32,
    d_model=16,
    context=32,
    norm="rmsnorm(eps=1e-5)",
    position="rope",
    attention="gqa(heads=4, kv_heads=2)",
    mlp="swiglu(d_ff=24)",
    blocks=dict(block="pre(attention, mlp)"),
    decoder="4*block",
    head="untied",
    initializer="normal(std=0.2)",
)
# A layer that stands in no stage, and whose keys pass through all of them; a repeat in a stage.
LENDING = DECODER | dict(
    lending="gqa(heads=4, kv_heads=2, lends=True)",
    borrowing="gqa(heads=4, kv_heads=2, source='earlier')",
    blocks=dict(block="pre(attention, mlp)", last="pre(lending, mlp)", late="pre(borrowing, mlp)"),
    decoder="last + 2*(block + 2*late)",
)
# With two streams, whose rows are neighbours.
ENCODER = {key: value for key, value in DECODER.items() if key != "decoder"} | dict(
    position="transformer_xl(parts=True)", mask="permutation", attention="mha(heads=4)", encoder="4*block", head="tied(bias=True)"
)
# With a table of positions that layers share, and an encoder of other layers than the decoder.
BOTH = DECODER | dict(
    inputs=32,
    position="t5_bias(shared=True)",
    reading="mha(heads=4, mask=full, position=t5_bias(shared=True, bidirectional=True))",
    across="mha(heads=4, mask=full, position=none, source='encoder')",
    blocks=dict(reading="pre(reading, mlp)", writing="pre(attention, across, mlp)"),
    encoder="4*reading",
    decoder="2*writing",
)
EXPERTS = DECODER | dict(
    dense="swiglu(d_ff=24)",
    mlp="moe(experts=4, top_k=2, router=sigmoid(renormalize=True, balance=0.01, bias_rate=0.01), expert=swiglu(d_ff=24))",
    blocks=dict(block="pre(attention, mlp)", first="pre(attention, dense)"),
    decoder="first + 2*block",
)
CASES = {
    "decoder": (DECODER, "stage:4,data:2", {}, 1),
    "lending": (LENDING, "stage:2,fsdp:2,tensor:2", {"remat": "full", "stream": "features"}, 2),
    "encoder": (ENCODER, "stage:4", {"remat": "dots"}, 1),
    "both": (BOTH, "stage:2,sequence:2", {}, 1),
    "experts": (EXPERTS, "stage:2,expert:2", {"pipeline_microbatches": 2}, 1),
}


@functools.cache
def trainer(name: str) -> Trainer:
    """On the mesh of a case."""
    section, mesh, execution, _ = CASES[name]
    place = sharding.make_mesh(mesh, jax.devices()[: sharding.devices_of(mesh)])
    optimizer = registry.create("optimizer", SMOOTH, "config.train.optimizer")
    return Trainer(build(spec.model(section), **execution), optimizer, place, 1.0)


def batch_of(name: str, packed) -> dict:
    batch = uneven_batch(packed, DECODER["vocab"])
    generator = np.random.default_rng(1)
    if name == "both":
        inputs = packed(DECODER["vocab"], time=24, rows=8, longest=24, padding=3, seed=1)
        batch |= {"inputs": inputs.tokens, "input_positions": inputs.positions, "input_segments": inputs.segments}
    if name == "encoder":
        batch["order"] = generator.permuted(np.tile(np.arange(32, dtype=np.int32), (8, 1)), axis=1)
    return batch


def run(one: Trainer, params, batch, parts=1):
    state, told = start(one, params), []
    for _ in range(STEPS):
        state, metrics = one.step(state, one.put(batch), RATE, parts)
        told.append(metrics)
    return state, told


@pytest.mark.parametrize("name", CASES)
def test_many_stages_are_one_device(name, random_params, packed):
    section, _, _, parts = CASES[name]
    batch, many = batch_of(name, packed), trainer(name)
    alone = trainer_of(spec.model(section), SMOOTH, 1.0)
    params = random_params(alone.model, **{key: batch[key] for key in ("inputs", "tokens") if key in batch})
    (expected, told), (found, told_of_many) = run(alone, params, batch), run(many, params, batch, parts)
    for name in told[0].keys() - {"parts"}:
        losses = [[np.asarray(metrics[name]) for metrics in each] for each in (told_of_many, told)]
        np.testing.assert_allclose(*losses, rtol=1e-5, err_msg=name)
    assert told[0]["loss"] > told[-1]["loss"] + 0.01
    assert_trees_close(found.params, expected.params, rtol=1e-5)
    if "router_loss" in told[0]:
        assert_trees_close(told_of_many, told, rtol=1e-5)
        assert told[0]["router_loss"] > 0


def gathered(text: str, declared) -> set[tuple[int, ...]]:
    """Shapes of all-gathers that make a parameter of all layers or of one, of those that are in stages."""
    is_declared = {"is_leaf": lambda leaf: isinstance(leaf, Declared)}
    of_a_layer = {one.value.shape[1:] for one in jax.tree.leaves(declared["decoder"]["0_repeat"], **is_declared)}
    shapes = [tuple(map(int, found.split(","))) for found in re.findall(r"\[([\d,]+)\]\S* all-gather(?:-start)?\(", text)]
    return {shape for shape in shapes if any(one and shape[-len(one) :] == one for one in of_a_layer)}


def test_only_what_passes_through_moves_between_stages(packed, monkeypatch):
    one, batch = trainer("decoder"), batch_of("decoder", packed)
    text = one.lower(batch).compile().as_text()
    assert "collective-permute" in text and not gathered(text, one.declared)
    kernel = one.shardings.params["decoder"]["0_repeat"]["0_block"]["mlp"]["up"]
    assert kernel.shard_shape((4, 16, 24)) == (1, 16, 24)
    # What would be seen if layers in stages were scanned like others.
    monkeypatch.setattr(pipeline, "microbatches", lambda *_: 0)
    section, mesh, _, _ = CASES["decoder"]
    text = trainer_of(spec.model(section), SMOOTH, 0.5, mesh=mesh, devices=8).lower(batch).compile().as_text()
    assert gathered(text, one.declared)


def test_every_microbatch_and_layer_has_its_own_dropout():
    model = build(DECODER | {"blocks": {"block": "pre(attention, mlp, dropout=0.3)"}, "decoder": "2*block"})
    tokens = jnp.tile(jnp.arange(8), (4, 1))
    params = model.init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda box: box.value, params, is_leaf=lambda leaf: isinstance(leaf, Declared))
    with jax.set_mesh(sharding.make_mesh("stage:2", jax.devices()[:2])):
        read = jax.jit(lambda key: model.apply({"params": params}, tokens, train=True, rngs={"dropout": key}))
        one, again, other = (np.asarray(read(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    rows = [*one, *other]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(rows) for b in rows[:i])


def test_a_model_in_stages_writes(random_params):
    """What is cached is computed as without stages, on all devices."""
    model, prompts = spec.model(DECODER), [[1, 2, 3], [4, 5]]
    many = trainer("decoder")
    params = random_params(many.model, jnp.zeros((1, 8), jnp.int32))
    expected = generate_tokens(model, params, prompts, max_new_tokens=4, sampler="greedy")
    placed = jax.device_put(params, many.shardings.params)
    assert generate_tokens(model, placed, prompts, max_new_tokens=4, sampler="greedy") == expected


@pytest.mark.parametrize(
    ("mesh", "rows", "wanted", "parts"),
    [
        ("data:8", 64, None, 0),
        ("stage:4,data:2", 8, None, 4),
        ("stage:4,data:2", 96, None, 16),
        ("stage:4,data:2", 56, None, 4),
        ("stage:4,data:2", 96, 8, 8),
        ("stage:4,data:2", 24, 8, 4),
        ("stage:8", 24, None, 24),
        ("stage:8", 4, None, 0),
    ],
)
def test_how_many_microbatches_there_are(mesh, rows, wanted, parts):
    with jax.set_mesh(sharding.make_mesh(mesh, jax.devices())):
        assert pipeline.microbatches(Context(np.zeros((rows, 1), np.int32)), wanted) == parts


@pytest.mark.parametrize("parts", [4, 16])
def test_a_plan_counts_what_is_computed_in_vain(parts):
    """In three turns more than there are microbatches, by the layers alone."""
    tokens = 64 * 64
    overrides = {
        "model.decoder": "4*block",
        "train.batch_tokens": tokens,
        "train.pipeline_microbatches": parts,
        "train.remat": "dots",
    }
    plan = make_plan(config_lib.load_config("llama:tiny", overrides | {"mesh": "stage:4,data:2"}), 8)
    found = estimate(plan, sharding.abstract_mesh(plan.config.mesh, 8), accelerators.find("h100"))
    forward = forward_flops_per_token(plan.model, plan.context, masked=False) * tokens / 8
    head = 2 * plan.model.d_model * plan.model.vocab * tokens / 8
    again = 4 * 4 * plan.context * plan.model.d_model * tokens / 8  # what no policy of projections keeps
    assert found.flops == pytest.approx(3 * head + (3 * (forward - head) + again) * (parts + 3) / parts, rel=1e-6)
    (passed,) = (one for one in found.moved if one.kind == "collective-permute")
    # What is given and what waits, there and back.
    stream = 4 * (parts + 3) * (tokens / parts / 2) * plan.model.d_model * 4
    assert passed.axes == ("stage",) and not passed.beside and passed.bytes == pytest.approx(stream, rel=0.1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({}, "config.mesh: axis 'stage' of 4 does not divide '2*block' of model.decoder (allowed: 1, 2)"),
        ({"model.decoder": "4*block + 3*(block + block)"}, "does not divide '3*(block + block)' of model.decoder (allowed: 1, 3)"),
        (
            {"model.decoder": "block + block"},
            "axis 'stage' divides repeated layers, as in '24*block'; model.decoder is 'block + block'",
        ),
        ({"model.decoder": "8*block", "train.scan": False}, "config.train.scan: must be true with stage:4 on the mesh"),
        (
            {"model.decoder": "8*block", "train.pipeline_microbatches": 6},
            "config.train.pipeline_microbatches: 6 does not divide a microbatch over 4 stages (allowed: 4, 8)",
        ),
        ({"model.decoder": "8*block + block", "train.pipeline_microbatches": 8}, None),
        (
            {"model.decoder": "8*block", "train.microbatch_tokens": 256},
            "config.train.microbatch_tokens: 256 must be a multiple of 64 x 8",
        ),
    ],
)
def test_what_cannot_be_divided_over_stages_is_refused(overrides, said):
    config = config_lib.load_config("llama:tiny", {"mesh": "stage:4,data:2"} | overrides)
    if said is None:
        assert make_plan(config, 8).execution.pipeline_microbatches == 8
        return
    with pytest.raises(UserError) as e:
        make_plan(config, 8)
    assert said in str(e.value) and "\n" not in str(e.value)
