"""A block that only some tokens go through: its formula, in training and after, what its router and predictor learn, its costs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scaling.test_accounting import BATCH, TIME, tokens, traced
from training.common import RATE, assert_trees_close, start, trainer_of

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.scaling import accounting

KEYS = {
    "norm": "layernorm(eps=1e-5)",
    "position": "rope",
    "mask": "causal",
    "initializer": "normal(std=0.1)",
    "attention": "gqa(heads=4, kv_heads=2, head_dim=8)",
    "mlp": "swiglu(d_ff=24)",
}
SCALARS = {"vocab": 32, "d_model": 16, "context": 8, "layers": 3}
SENTENCE = "depths(pre(attention, mlp), capacity={}, d_predictor=6)"


def resolve(capacity=0.25, **keys) -> registry.Component:
    return spec.resolve(SENTENCE.format(capacity), ("block",), spec.Scope("blocks.block", SCALARS, KEYS | keys))


@functools.partial(jax.jit, static_argnums=0)
def apply(part, params, x, context):
    return registry.instantiate(part).apply({"params": params}, x, context, mutable=["routing"])


@functools.partial(jax.jit, static_argnums=0)
def inside(part, params, x, context):
    """What the block alone makes of a row."""
    return registry.instantiate(part["block"]).apply({"params": params}, x, context)


def expected(part, params, x_TD, row_TD, chosen) -> np.ndarray:
    """x + r f(x) of the chosen places, where the block makes row of x."""
    r_T = np.asarray(x_TD, np.float64) @ np.asarray(params["router"], np.float64)[:, 0]
    y_TD = np.array(x_TD)
    for t in chosen:
        y_TD[t] += r_T[t] * (np.asarray(row_TD[t]) - x_TD[t])
    return y_TD


def masked(part, params, x_TD, positions_T, documents_T, chosen) -> np.ndarray:
    """The same with all tokens in their places, where those that are not chosen are of no document."""
    documents_T = np.where(np.isin(np.arange(len(x_TD)), chosen), documents_T, 0)
    row_TD = inside(part, params["block"], x_TD[None], Context(positions_T[None], documents_T[None]))[0]
    return expected(part, params, x_TD, row_TD, chosen)


def gathered(part, params, x_TD, positions_T, documents_T, chosen) -> np.ndarray:
    """The same with the chosen tokens of each document alone in a row."""
    row_TD = np.array(x_TD)
    for document in set(documents_T[chosen].tolist()):
        places = [t for t in chosen if documents_T[t] == document]
        row_TD[places] = inside(part, params["block"], x_TD[None, places], Context(positions_T[None, places]))[0]
    return expected(part, params, x_TD, row_TD, chosen)


@pytest.fixture(scope="module")
def rows(packed):
    """Vectors of two rows of documents with padding, and where they stand."""
    batch = packed(32, time=24, rows=2, longest=12)
    x = np.random.default_rng(5).standard_normal((2, 24, 16)).astype(np.float32)
    return x, batch.positions, batch.segments


@pytest.mark.parametrize(
    ("position", "mask"),
    [("rope", "causal"), ("rope", "local(window=5)"), *((name, "causal") for name in ("alibi", "transformer_xl", "t5_bias"))],
)
def test_the_highest_of_a_row_go_through(rows, random_params, position, mask):
    """With their own positions and documents, in training; the others stay what they were."""
    part = resolve(position=position, mask=mask)
    x, positions, segments = rows
    params = random_params(registry.instantiate(part), x, Context(positions))
    found, state = apply(part, params, x, Context(positions, segments, train=True))
    room = math.ceil(0.25 * 24)
    predicted = state["routing"]["sums"]
    logits = predictor(params, x)
    for b in range(2):
        r = np.where(segments[b] > 0, x[b] @ np.asarray(params["router"])[:, 0], -np.inf)
        chosen = sorted(np.argsort(-r)[:room].tolist())
        np.testing.assert_allclose(found[b], masked(part, params, x[b], positions[b], segments[b], chosen), rtol=1e-4, atol=1e-5)
        passed = np.setdiff1d(np.arange(24), chosen)
        np.testing.assert_array_equal(found[b, passed], x[b, passed])
        wanted = np.isin(np.arange(24), chosen)
        p = 1 / (1 + np.exp(-logits[b]))
        cost = -np.where(wanted, np.log(p), np.log(1 - p))
        np.testing.assert_allclose(predicted.loss_B[b], cost[segments[b] > 0].mean(), rtol=1e-4)
    assert predicted.tokens == (segments > 0).sum() and 0 < predicted.right < predicted.tokens


def predictor(params, x):
    """Its logits, written out."""
    own = {name: np.asarray(value) for name, value in params["predictor"].items()}
    return (np.maximum(x @ own["up"] + own["up_bias"], 0) @ own["down"] + own["down_bias"])[..., 0]


def test_padding_is_never_chosen(rows, random_params):
    """Not even where there is more room than tokens."""
    x, positions, _ = rows
    part = resolve(0.5)
    params = random_params(registry.instantiate(part), x, Context(positions))
    few = np.where(np.arange(24) < 5, 1, 0) * np.ones((2, 1), int)
    for context in (Context(positions, few, train=True), Context(positions, few)):
        found, _ = apply(part, params, x, context)
        np.testing.assert_array_equal(found[:, 5:], x[:, 5:])
        assert not np.array_equal(found[:, :5], x[:, :5])


def test_after_training_the_predictor_chooses(rows, random_params):
    """For each token by itself, as many as it likes."""
    x, positions, segments = rows
    part = resolve(0.5)
    params = random_params(registry.instantiate(part), x, Context(positions))
    found, state = apply(part, params, x, Context(positions, segments))
    assert "routing" not in state
    through = predictor(params, x) > 0
    for b in range(2):
        chosen = np.flatnonzero(through[b] & (segments[b] > 0)).tolist()
        assert 0 < len(chosen) < math.ceil(0.5 * 24)
        np.testing.assert_allclose(found[b], gathered(part, params, x[b], positions[b], segments[b], chosen), rtol=1e-4, atol=1e-5)


def test_no_later_token_changes_what_is_chosen_before_it(tiny):
    """Where gradients cannot see it: choices do not move with a small change."""
    one = tiny("mixture_of_depths")
    text = np.random.default_rng(0).integers(0, 512, (2, 24))
    other = np.where(np.arange(24) < 11, text, (text + 7) % 512)
    first, second = (one.logits(one.params, batch) for batch in (text, other))
    np.testing.assert_allclose(first[:, :11], second[:, :11], rtol=1e-5, atol=1e-5)
    assert not np.allclose(first[:, 11:], second[:, 11:], atol=1e-2)


def test_a_token_that_passes_by_is_not_cached(tiny):
    """Its slot stays empty in that layer alone."""
    one = tiny("mixture_of_depths")
    text = np.random.default_rng(0).integers(0, 512, (2, 24))
    _, state = one.model().apply({"params": one.params}, text, cache_length=24, mutable=["cache"])
    (full, routed), places = state["cache"]["decoder"]["0_repeat"].values(), np.arange(24)
    assert np.all(full["attention"]["cached_position"] == places)
    kept = np.asarray(routed["block"]["attention"]["cached_position"])
    assert 0.1 < (kept < 0).mean() < 0.9
    np.testing.assert_array_equal(kept[kept >= 0], np.broadcast_to(places, kept.shape)[kept >= 0])
    assert not np.any(np.asarray(routed["block"]["attention"]["cached_key"]).swapaxes(2, 3)[kept < 0])


def test_what_learns_from_what(tiny):
    """The router from the loss of the text, through the weights of what it chose; the predictor alone from its own."""
    one = tiny("mixture_of_depths")
    text = np.random.default_rng(0).integers(0, 512, (2, 24))

    @jax.jit
    def gradients(params):
        def losses(params):
            sums, _ = one.model().apply({"params": params}, text, text, train=True, method="loss", mutable=["routing"])
            return sums.nll.sum(), sums.loss

        said, pull = jax.vjp(losses, params)
        plain = jax.grad(lambda params: one.model().apply({"params": params}, text, text, train=True, method="loss").loss)(params)
        return said, plain, pull((jnp.zeros(()), jnp.ones(())))[0]

    (nll, loss), plain, both = gradients(one.params)
    assert loss > nll
    own, beside = (tree["decoder"]["0_repeat"]["1_routed"].pop("predictor") for tree in (both, plain))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own)) and not any(np.any(leaf) for leaf in jax.tree.leaves(beside))
    assert_trees_close(both, plain, rtol=1e-5)
    assert np.all(np.any(plain["decoder"]["0_repeat"]["1_routed"]["router"], 1))


def test_the_predictor_learns(tiny):
    """From guessing to nearly always right about a batch that it sees again and again; a step says so."""
    one = tiny("mixture_of_depths")
    text = np.random.default_rng(0).integers(0, 512, (8, 16), dtype=np.int32)
    trainer = trainer_of(one.spec, "adamw(b1=0.9, b2=0.95)", 1.0)
    state, seen = start(trainer, one.params), []
    for _ in range(120):
        state, metrics = trainer.step(state, {"tokens": text, "targets": text}, RATE)
        seen.append({name: float(metrics[name]) for name in ("loss", "objective", "depth_loss", "depth_accuracy")})
    assert seen[0]["depth_accuracy"] < 0.7 and seen[-1]["depth_accuracy"] > 0.95
    for line in seen:
        np.testing.assert_allclose(line["objective"], line["loss"] + line["depth_loss"], rtol=1e-4)


def test_costs():
    """In training, of the program: a share of the tokens, its square of the pairs; the router and the predictor see all."""
    section = config_lib.load_config("mixture_of_depths:tiny").model.to_dict()
    parsed = spec.model(section)
    model = model_lib.build(parsed, attention="reference")
    params = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    dense = spec.model({**section, "decoder": "4*full"})
    share, width, heads = 0.5, 64, 4 * 16
    layer = 2 * 12 * width**2
    choosing = 2 * (width + 16 * width + 16)

    def forward(pairs):
        """Per token, from that of a dense model."""
        whole = accounting.forward_flops_per_token(dense, TIME, masked=pairs != TIME)
        return whole - 2 * (1 - share) * layer - 2 * (1 - share**2) * 4 * heads * pairs + 2 * choosing

    def loss(params, tokens):
        arguments = {"train": True, "method": "loss", "mutable": ["routing"]}
        return model.apply({"params": params}, tokens, tokens, **arguments)[0].loss

    # What the predictor reads has no gradient.
    assert traced(jax.grad(loss), params, tokens()) == BATCH * TIME * (3 * forward(TIME) - 2 * 2 * 16 * width)
    assert accounting.forward_flops_per_token(parsed, TIME) == forward((TIME + 1) / 2)
    assert accounting.count(parsed).parameters - accounting.count(dense).parameters == 2 * (width + 16 * width + 16 + 16 + 1)


def test_experts_inside_share_the_room(random_params, rows):
    """Tokens that pass by take no room of experts, trained or not."""
    moe = "moe(experts=4, top_k=1, router=softmax, expert=swiglu(d_ff=8), capacity=2.0)"
    part = resolve(0.5, mlp=moe)
    x, positions, segments = rows
    params = random_params(registry.instantiate(part), x, Context(positions))
    for train in (True, False):
        _, state = apply(part, params, x, Context(positions, segments, train=train))
        through = (segments > 0) & (predictor(params, x) > 0)
        assigned = float(state["routing"]["block"]["mlp"]["sums"].load_E.sum())
        assert assigned == (2 * 12 if train else through.sum())


ERRORS = [
    ("depths(pre(attention, mlp), capacity=0, d_predictor=8)", "depths: capacity=0.0 must be above 0 and at most 1"),
    ("depths(pre(attention, mlp), capacity=0.5, d_predictor=0)", "depths: d_predictor=0 must be at least 1"),
    ("depths(attention, capacity=0.5, d_predictor=8)", "unknown block 'mha'"),
    ("depths(depths(pre(mlp), capacity=0.5, d_predictor=8), capacity=0.5, d_predictor=8)", "must not have depths"),
    ("depths(pre(attention, mlp), d_predictor=8)", "depths needs the argument 'capacity' (float)"),
]


@pytest.mark.parametrize(("sentence", "said"), ERRORS, ids=[said for _, said in ERRORS])
def test_what_does_not_fit_is_said(sentence, said):
    section = config_lib.load_config("mixture_of_depths:tiny", {"model.blocks.routed": sentence}).model.to_dict()
    with pytest.raises(UserError) as caught:
        spec.model(section)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
