"""Modules that predict further ahead: their formula, who sees what, what learns from them, and that they are left behind."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scaling.test_accounting import BATCH, TIME, tokens, traced
from training.common import RATE, SMOOTH, assert_trees_close, start, uneven_batch

from taxonomy import ahead, describe, registry, sharding, spec, stack
from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy.errors import UserError
from taxonomy.inference import decode
from taxonomy.layers.context import Context
from taxonomy.scaling import accounting
from taxonomy.training import loop
from taxonomy.training.plan import make_plan
from taxonomy.training.step import Trainer

SECTION = dict(
    vocab=32,
    d_model=16,
    context=32,
    norm="rmsnorm(eps=1e-6)",
    position="rope",
    attention="gqa(heads=4, kv_heads=2)",
    mlp="swiglu(d_ff=24)",
    wide="gelu(d_ff=40, bias=True)",
    blocks=dict(block="pre(attention, mlp)", other="pre(attention, wide)"),
    decoder="2*block",
    ahead="other + block",
    head="untied",
    initializer="normal(std=0.2)",
)
WEIGHT = 0.3


@pytest.fixture(scope="module")
def one(random_params):
    """A model with two modules, and random parameters."""
    model = model_lib.build(SECTION)
    return model, random_params(model, **model_lib.blank(model.spec, time=8))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("weight",))
def sums(model, params, batch, weight=WEIGHT):
    return model.apply({"params": params}, **batch, ahead=weight, method="loss")


def rms(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(gain)


def by_the_paper(model, params, text_BT) -> np.ndarray:
    """-log P (depths, B, T) of the token m + 1 places after i by the module of depth m; nan where the text has ended.

    Equations 21 to 23, place by place. The block is the model's own, whose tests are elsewhere.
    """
    tokens_BT = text_BT[:, :-1]
    batch, time = tokens_BT.shape
    x_BTD = np.asarray(model.apply({"params": params}, tokens_BT, method="features"))
    table_VD, head_VD = np.asarray(params["embedding"]["table"]), np.asarray(params["head"]["kernel"])
    context = Context(jnp.broadcast_to(jnp.arange(time), tokens_BT.shape))
    found = np.full((2, batch, time), np.nan)
    for depth, name in ((1, "other"), (2, "block")):
        own = params[f"ahead_{depth}"]
        joined_BTD = np.zeros_like(x_BTD)
        for b in range(batch):
            for i in range(time - depth):
                e_D = rms(table_VD[text_BT[b, i + depth]], own["token_norm"]["scale"])
                joined_BTD[b, i] = np.concatenate([e_D, rms(x_BTD[b, i], own["norm"]["scale"])]) @ np.asarray(own["join"])
        block = registry.instantiate(model.spec.block(name))
        y_BTD = block.apply({"params": own["stack"][f"0_{name}"]}, jnp.asarray(joined_BTD), context)
        x_BTD = rms(np.asarray(y_BTD), own["final_norm"]["scale"])
        for b in range(batch):
            for i in range(time - depth):
                found[depth - 1, b, i] = -jax.nn.log_softmax(head_VD @ x_BTD[b, i])[text_BT[b, i + depth + 1]]
    return found


def test_the_loss_is_that_of_the_paper(one):
    model, params = one
    text = np.random.default_rng(0).integers(0, 32, (3, 13))
    batch = {"tokens": text[:, :-1], "targets": text[:, 1:]}
    expected = by_the_paper(model, params, text)
    found = sums(model, params, batch)
    beyond = found.others["ahead"]
    np.testing.assert_allclose(beyond.nll, np.nansum(expected, (0, 2)), rtol=1e-5)
    np.testing.assert_array_equal(beyond.weight, [11 + 10] * 3)
    np.testing.assert_allclose(found.loss, found.nll.sum() + WEIGHT / 2 * np.nansum(expected), rtol=1e-5)
    alone = model_lib.build(model.spec.alone)
    plain = alone.apply({"params": params}, **batch, method="loss")
    np.testing.assert_allclose(found.nll, plain.nll, rtol=1e-6)
    # A weight for each target is that of whoever predicts it.
    weights = np.random.default_rng(1).random((3, 12)).astype(np.float32)
    weighted = sum(np.nansum(expected[m - 1, :, :-m] * weights[:, m:], 1) for m in (1, 2))
    found = sums(model, params, {**batch, "weights": weights})
    np.testing.assert_allclose(found.others["ahead"].nll, weighted, rtol=1e-5)


def test_rows_shorter_than_the_depth_have_nothing_ahead(one):
    found = sums(*one, {"tokens": jnp.ones((2, 1), jnp.int32), "targets": jnp.ones((2, 1), jnp.int32)})
    assert found.others["ahead"].weight.sum() == found.others["ahead"].loss == 0
    np.testing.assert_array_equal(ahead.later(jnp.arange(6).reshape(2, 3), 5), np.zeros((2, 3)))


def test_packed_is_unpacked(one, packed):
    """The sums of a row of documents are those of the documents; without a place for the next one's tokens."""
    batch = packed(32, time=32, rows=2, longest=9)
    together = sums(*one, batch._asdict())
    expected = np.zeros((2, 3))
    for row in range(2):
        for segment in range(1, batch.segments[row].max() + 1):
            columns = np.flatnonzero(batch.segments[row] == segment)
            alone = {key: getattr(batch, key)[row : row + 1, columns] for key in ("tokens", "targets", "weights")}
            found = sums(*one, alone).others["ahead"]
            expected[row] += np.array([found.nll.sum(), found.correct.sum(), found.weight.sum()])
    beyond = together.others["ahead"]
    assert expected[:, 2].min() > 0 and expected[:, 2].sum() < 2 * batch.weights.sum()
    np.testing.assert_allclose(np.stack([beyond.nll, beyond.correct, beyond.weight], 1), expected, rtol=1e-5)


def test_what_is_predicted_is_not_seen(one, packed):
    """The token at place j is said by depth m from the tokens up to j - 1 of its document alone: what the main head knows."""
    model, params = one
    batch = packed(32, time=24, rows=1, longest=20)

    @jax.jit
    def influence(target):
        def loss(table):
            # Every place has a vector of its own.
            changed = {**params, "embedding": {"table": table}}
            places = {**batch._asdict(), "tokens": jnp.arange(24)[None], "weights": jnp.arange(24)[None] == target}
            places["weights"] = places["weights"].astype(jnp.float32)
            return model.apply({"params": changed}, **places, method="loss").others["ahead"].loss

        return jnp.abs(jax.grad(loss)(params["embedding"]["table"])).max(-1)[:24]

    for target in (2, 7, 19):
        found = np.asarray(influence(target))
        t = np.arange(24)
        same = batch.segments[0] == batch.segments[0, target]
        assert np.all(found[(t > target) | ~same] == 0)
        first = np.flatnonzero(same)[0]
        # Two depths end at this target if the document has as many tokens before it.
        assert np.all(found[max(first, target - 2) : target + 1] > 0) == (target > first)


def test_what_learns_from_it(one, packed):
    model, params = one
    batch = packed(32, time=16, rows=2, longest=16)._asdict()

    @functools.partial(jax.jit, static_argnums=1)
    def gradients(params, weight):
        return jax.grad(lambda params: sums(model, params, batch, weight).loss)(params)

    def beyond(params):
        return sums(model, params, batch).others["ahead"].loss

    learned = traverse_util.flatten_dict(jax.jit(jax.grad(beyond))(params), sep="/")
    # The trunk, the embedding, the head and every module; adding to all scores of a query alike changes nothing.
    assert all(np.any(leaf != 0) for leaf in learned.values())
    alone = model_lib.build(model.spec.alone)
    plain = jax.jit(jax.grad(lambda params: alone.apply({"params": params}, **batch, method="loss").loss))(params)
    assert_trees_close(gradients(params, 0.0), plain, rtol=1e-6)
    weighted = jax.tree.map(lambda a, b: a + WEIGHT / 2 * b, plain, traverse_util.unflatten_dict(learned, sep="/"))
    assert_trees_close(gradients(params, WEIGHT), weighted, rtol=1e-5)


def test_execution_changes_nothing(one, packed):
    model, params = one
    batch = packed(32, time=24, rows=2, longest=16)._asdict()

    def gradients(params, **execution):
        model = model_lib.build(SECTION, **execution)
        return jax.jit(jax.value_and_grad(lambda params: model.apply({"params": params}, **batch, method="loss").loss))(params)

    (value, expected) = gradients(params, loss_chunk=16)
    assert_trees_close(gradients(params, remat="full"), (value, expected), rtol=1e-5)
    unrolled = {**params, "decoder": stack.unstack(params["decoder"], model.spec.decoder)}
    again, found = gradients(unrolled, scan=False)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    assert_trees_close({**found, "decoder": stack.restack(found["decoder"], model.spec.decoder)}, expected, rtol=1e-5)


@pytest.mark.parametrize("mesh", ["data:2,fsdp:2,tensor:2", "data:2,sequence:4"])
def test_many_devices_and_microbatches_are_one_step(one, packed, mesh):
    model, params = one
    batch = uneven_batch(packed, 32)

    def step(mesh, devices, parts):
        place = sharding.make_mesh(mesh, jax.devices()[:devices])
        optimizer = registry.create("optimizer", SMOOTH, "optimizer")
        trainer = Trainer(model, optimizer, place, 1.0, ahead=WEIGHT)
        state, metrics = trainer.step(start(trainer, params), trainer.put(batch), RATE, parts)
        return state.params, {name: float(metrics[name]) for name in ("loss", "objective", "ahead_loss", "ahead_accuracy")}

    expected, figures = step("data:1", 1, 1)
    assert figures["objective"] > figures["loss"] + 0.1
    found, again = step(mesh, 8, 2)
    np.testing.assert_allclose(list(again.values()), list(figures.values()), rtol=1e-5)
    assert_trees_close(found, expected, rtol=1e-5)


def test_costs():
    """Counted apart; FLOPs are those of the program that trains."""
    parsed = spec.model(SECTION)
    model = model_lib.build(parsed, attention="reference")
    params = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    alone, costs = accounting.count(parsed.alone), accounting.count(parsed)
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert costs.ahead_parameters == sizes["ahead_1"] + sizes["ahead_2"] > 0
    assert costs.parameters == alone.parameters == sum(sizes.values()) - costs.ahead_parameters
    assert costs.flops_per_token == alone.flops_per_token
    assert costs.train_flops_per_token == accounting.train_flops_per_token(parsed)

    def loss(params, tokens):
        return model.apply({"params": params}, tokens, tokens, method="loss").loss

    forward = accounting.forward_flops_per_token(parsed, TIME, masked=False)
    forward += accounting.ahead_flops_per_token(parsed, TIME, masked=False)
    assert traced(jax.grad(loss), params, tokens()) == 3 * BATCH * TIME * forward
    # Two matrices join, and a dense layer of 64 has 4 of attention and 3 of its feed-forward.
    config = config_lib.load_config("llama:tiny", {"model.ahead": "block", "train.ahead": 0.3})
    described = describe.describe(config)
    one_layer = dict(described["parameters_by_part"])
    layers = sum(size for part, size in one_layer.items() if part.startswith("decoder/")) // described["layers"]
    assert described["ahead_parameters"] == layers + 2 * 64 * 64 + 3 * 64
    assert described["components"]["ahead"] == "block" and described["training"]["ahead"] == 0.3


def test_a_run_says_how_well_and_text_needs_no_modules(tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.setenv("TAXONOMY_CACHE", str(tmp_path_factory.getbasetemp() / "corpus"))
    config = config_lib.load_config(
        "llama:tiny",
        {
            "model.ahead": "block",
            "train.ahead": WEIGHT,
            "data.tokenizer": "bytes()",
            "train.steps": 30,
            "train.log_every": 1,
            "evaluation.every": "30 steps",
            "evaluation.max_tokens": 1024,
        },
    )
    run = loop.train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["ahead_loss"] < lines[0]["ahead_loss"] - 0.5 and "validation_ahead_loss" in lines[-1]
    for line in lines:
        # The last place of a row has nothing ahead.
        expected = line["loss"] + WEIGHT * line["ahead_loss"] * 63 / 64
        np.testing.assert_allclose(line["objective"], expected, rtol=0.01)
    params, parsed = jax.device_get(run.state.params), run.plan.model
    alone, own = model_lib.nets(parsed, params)["model"]
    assert "ahead_1" in params and "ahead_1" not in own and alone == parsed.alone
    prompts = [[5, 6, 7], [9]]
    assert decode.generate_tokens(parsed, params, prompts, max_new_tokens=5) == (
        decode.generate_tokens(alone, own, prompts, max_new_tokens=5)
    )


ERRORS = [
    ({"model.ahead": "blok"}, "model.ahead: unknown block 'blok'; did you mean 'block'?"),
    ({"model.ahead": "block"}, "config.train.ahead: a weight for the loss of the modules of model.ahead is required"),
    ({"train.ahead": 0.1}, "config.train.ahead: not read by a model without the modules of model.ahead"),
    ({"model.ahead": "block", "train.ahead": -1.0}, "config.train.ahead: must not be negative, got -1.0"),
    ({"model.ahead": "block", "model.mask": "prefix"}, "model.ahead: needs masks that are causal, but block 'block' has"),
    ({"model.ahead": "block", "model.head": "classifier(classes=2)"}, "model.ahead: needs a head that says tokens, but"),
]


@pytest.mark.parametrize(("overrides", "said"), ERRORS, ids=[said[:60] for _, said in ERRORS])
def test_what_does_not_fit_is_said(overrides, said):
    with pytest.raises(UserError) as caught:
        make_plan(config_lib.load_config("llama:tiny", overrides), 1)
    assert str(caught.value).startswith(said) and len(str(caught.value).splitlines()) == 1


def test_an_encoder_predicts_nothing_ahead():
    section = config_lib.load_config("bert:tiny").model.to_dict()
    with pytest.raises(UserError, match=r"model\.ahead: needs model\.decoder and no model\.encoder"):
        spec.model({**section, "ahead": "block"})
    with pytest.raises(UserError, match=r"model\.norm: required by model\.ahead"):
        without = {**SECTION, "blocks": dict(block="pre(attention, mlp, norm=rmsnorm(eps=1e-6))"), "ahead": "block"}
        spec.model({key: value for key, value in without.items() if key not in ("norm", "wide")} | {"final_norm": None})
