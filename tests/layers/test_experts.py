"""Mixtures of experts: every path through the experts is the papers' loop over tokens, for every router."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.layers.routing import Routing
from taxonomy.ops import assignment

from . import plain_experts

ROWS, TIME, D = 3, 14, 8
GENERATOR = np.random.default_rng(0)
# A direction that all tokens share makes some experts popular.
X = (GENERATOR.standard_normal((ROWS, TIME, D)) + GENERATOR.standard_normal(D)).astype(np.float32)
DIRECTION = GENERATOR.standard_normal(X.shape).astype(np.float32)
LOSS_WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
TOKENS = GENERATOR.integers(0, 1000, (ROWS, TIME))
DOMAINS = np.array([4, 0, 4])
# One row is full, one holds two documents and padding, one begins with padding as in decoding.
POSITIONS = np.stack([np.arange(TIME), np.r_[0:5, 0:6, 0:3], np.r_[[-1] * 4, 0:10]])
SEGMENTS = np.stack([[1] * TIME, [1] * 5 + [2] * 6 + [0] * 3, [1] * TIME])
LIVE = (POSITIONS >= 0) & (SEGMENTS > 0)
DRAWN = {
    "normal": GENERATOR.standard_normal((ROWS, TIME, 6)).astype(np.float32),
    "uniform": GENERATOR.uniform(size=(ROWS, TIME)).astype(np.float32),
}
CASES = {
    "softmax": "top_k=2, router=softmax(balance=0.3, z=0.2)",
    "grouped": "top_k=2, router=softmax(renormalize=True, scale=2.5, bias=True, groups=3, group_limit=2, balance=0.1)",
    "sigmoid": "top_k=3, router=sigmoid(renormalize=True, bias_rate=0.1, groups=2, group_best=2, balance=0.3), "
    "shared=swiglu(d_ff=7, bias=True)",
    "input": "top_k=1, router=sigmoid, shared=swiglu(d_ff=7, bias=True), weigh='input'",
    "noisy": "top_k=2, router=noisy_top_k(importance=0.3, load=0.2, balance=0.1, z=0.1)",
    "top2": "top_k=2, router=top2(balance=0.3, z=0.1)",
    "expert_choice": "top_k=2, router=expert_choice(z=0.3)",
    "base": "top_k=1, router=base(z=0.3)",
    "s_base": "top_k=1, router=s_base(z=0.3)",
    "domain": "top_k=1, router=domain",
    "hash": "top_k=1, router=hash(seed=7), shared=swiglu(d_ff=7, bias=True)",
}
TRAIN = ("noisy", "top2", "base", "s_base")  # of these training is another function


def resolved(arguments: str):
    scope = spec.Scope("mlp", {"d_model": D}, {"initializer": "normal(std=1)"})
    return spec.resolve(f"moe(experts=6, expert=swiglu(d_ff=5, bias=True), {arguments})", ("feedforward",), scope)


@pytest.fixture(autouse=True)
def known_draws(monkeypatch):
    """What routers draw is in `DRAWN`."""

    def known(values, draw):
        return lambda key, shape, *rest: jnp.asarray(values) if shape == values.shape else draw(key, shape, *rest)

    for name, values in DRAWN.items():
        monkeypatch.setattr(jax.random, name, known(values, getattr(jax.random, name)))


def context(train=False, experts="auto") -> Context:
    known = {"tokens_BT": jnp.asarray(TOKENS), "domains_B": jnp.asarray(DOMAINS)}
    return Context(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS), **known, train=train, experts=experts)


def computed(part, params, train=False, experts="auto"):
    """The value and its gradients by parameters and inputs, the output and what is reported."""
    module = registry.instantiate(part)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def value(params, x):
        rngs = {"dropout": jax.random.key(0)} if train else None
        y, state = module.apply({"params": params}, x, context(train, experts), rngs=rngs, mutable=["routing"])
        found = state["routing"]["sums"]
        return jnp.sum(y * DIRECTION) + jnp.sum(found.loss_B * LOSS_WEIGHTS), (y, found)

    return jax.jit(value)(params, jnp.asarray(X))


def looped(part, params, train=False, slots=None):
    """The same by the plain loop, and what it says of every row."""
    leaves = jax.tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=True), params)
    x = torch.tensor(X, requires_grad=True)
    rows = []
    for b in range(ROWS):
        drawn = {name: a[b] for name, a in DRAWN.items()}
        row = plain_experts.Row(x[b], list(LIVE[b]), TOKENS[b].tolist(), int(DOMAINS[b]), train, drawn)
        rows.append(plain_experts.layer(part, leaves, row, slots))
    total = sum((one.y * torch.tensor(DIRECTION[b])).sum() for b, one in enumerate(rows))
    total = total + sum(one.decision.loss * float(weight) for one, weight in zip(rows, LOSS_WEIGHTS, strict=True))
    total.backward()
    zero_where_unused = lambda leaf: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()  # noqa: E731
    return (float(total), (jax.tree.map(zero_where_unused, leaves), x.grad.numpy())), rows


def assert_same(found, expected, rows):
    (value, (output, reported)), gradients = found
    expected_value, expected_gradients = expected
    y = torch.stack([one.y for one in rows]).detach().numpy()
    np.testing.assert_allclose(output, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())
    np.testing.assert_allclose(reported.loss_B, [float(one.decision.loss) for one in rows], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4)

    def close(path, a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * max(1, np.abs(b).max()), err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, gradients, expected_gradients)


def assert_reported(reported: Routing, rows, part):
    experts = part["experts"]
    load = np.sum([plain_experts.load(one.decision, experts) for one in rows], 0)
    np.testing.assert_array_equal(reported.load_E, load)
    assert float(reported.dropped) == sum(len(one.dropped) for one in rows)
    entropy = 0.0
    for one, live in zip(rows, LIVE, strict=True):
        p = one.decision.probabilities.detach().numpy()[live]
        entropy -= np.sum(p * np.log(np.where(p > 0, p, 1)))
    np.testing.assert_allclose(reported.entropy, entropy, rtol=1e-5, atol=1e-6)
    assert float(reported.tokens) == LIVE.sum()
    assert reported.bias_rate == part["router"].get("bias_rate")
    if part["router"].name not in ("expert_choice", "base", "s_base"):
        assert load.max() >= 2 * max(load.min(), 1), load


VARIANTS = [(name, False) for name in CASES] + [(name, True) for name in TRAIN]


@pytest.mark.parametrize(("name", "train"), VARIANTS, ids=[f"{name}{'-train' * train}" for name, train in VARIANTS])
def test_every_path_is_the_loop_over_tokens(name, train, random_params, monkeypatch):
    """Slots for all, blocks and ragged rows drop nothing; tight slots drop what comes last."""
    monkeypatch.setattr(assignment, "PRECISION", 10**5)  # the best assignment itself, not one nearly as good
    monkeypatch.setattr(assignment, "EVENNESS", 1e-6)
    part = resolved(CASES[name])
    params = random_params(registry.instantiate(part), X, context())
    expected, rows = looped(part, params, train)
    ample = part.replace(capacity=6.0)
    for one, experts in ((ample, "auto"), (part, "blocks"), (part, "ragged")):
        found = computed(one, params, train, experts)
        assert_same(found, expected, rows)
        assert_reported(found[0][1][1], rows, part)
    slots = 2
    expected, rows = looped(part, params, train, slots)
    found = computed(part.replace(slots=slots), params, train)
    assert_same(found, expected, rows)
    assert_reported(found[0][1][1], rows, part)
    assert sum(len(one.dropped) for one in rows) >= 4


@pytest.mark.parametrize(
    ("time", "experts", "top_k", "arguments", "train", "slots"),
    [
        (16, 4, 1, "capacity=1.0", True, 4),
        (16, 4, 1, "capacity=1.25", False, 5),
        (10, 10, 1, "capacity=1.1", True, 2),
        (100, 10, 1, "capacity=1.1", True, 11),  # 11.000000000000002 in floating point
        (16, 5, 2, "capacity=1.0", True, 7),
        (16, 4, 2, "capacity=4.0", True, 16),
        (16, 4, 1, "capacity=1.0, evaluation_capacity=2.0", True, 4),
        (16, 4, 1, "capacity=1.0, evaluation_capacity=2.0", False, 8),
        (16, 4, 1, "evaluation_capacity=0.5", True, 16),
        (16, 4, 1, "evaluation_capacity=0.5", False, 2),
        (16, 4, 2, "slots=3", True, 3),
        (16, 4, 1, "slots=30", False, 16),
    ],
)
def test_capacity_is_the_share_of_a_row_times_a_factor_rounded_up(time, experts, top_k, arguments, train, slots):
    """Where all scores are the same, all tokens want the same experts."""
    sentence = f"moe(experts={experts}, top_k={top_k}, router=softmax, expert=relu(d_ff=2), {arguments})"
    scope = spec.Scope("mlp", {"d_model": 2}, {"initializer": "normal(std=1)"})
    module = registry.instantiate(spec.resolve(sentence, ("feedforward",), scope))
    x, places = jnp.zeros((2, time, 2)), Context(jnp.zeros((2, time), jnp.int32), train=train)
    params = jax.jit(module.init)(jax.random.key(0), x, places)["params"]
    _, state = jax.jit(lambda: module.apply({"params": params}, x, places, mutable=["routing"]))()
    assert float(state["routing"]["sums"].dropped) == 2 * top_k * (time - slots)


def test_padding_is_given_no_room():
    """The same tokens in rows of two lengths: an expert takes ceil(10 / 4) of them in both."""
    sentence = "moe(experts=4, top_k=1, router=softmax, expert=relu(d_ff=4), capacity=1.0)"
    scope = spec.Scope("mlp", {"d_model": 2}, {"initializer": "normal(std=1)"})
    module = registry.instantiate(spec.resolve(sentence, ("feedforward",), scope))
    x = np.random.default_rng(0).standard_normal((1, 10, 2)).astype(np.float32)
    params = module.init(jax.random.key(0), jnp.asarray(x), Context(jnp.arange(10)[None]))["params"]
    found = []
    for length in (10, 40):
        padded = jnp.pad(jnp.asarray(x), ((0, 0), (0, length - 10), (0, 0)))
        places = Context(jnp.where(jnp.arange(length) < 10, jnp.arange(length), -1)[None])
        y, state = module.apply({"params": params}, padded, places, mutable=["routing"])
        found.append((y[:, :10], state["routing"]["sums"].dropped))
    assert found[0][1] > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("top_k=0, router=softmax", "top_k=0 must be from 1 to experts=6"),
        ("top_k=7, router=sigmoid", "top_k=7 must be from 1 to experts=6"),
        ("top_k=1, router=top2", "top2: top_k=1 must be 2"),
        ("top_k=2, router=base", "base: top_k=2 must be 1"),
        ("top_k=2, router=hash", "hash: top_k=2 must be 1"),
        ("top_k=1, router=hash(seed=-1)", "seed=-1 must be from 0 to 2**32 - 1"),
        ("top_k=1, router=softmax(jitter=1)", "jitter=1.0 must be from 0 to below 1"),
        ("top_k=1, router=softmax(groups=4)", "experts=6 is not a multiple of groups=4"),
        ("top_k=3, router=softmax(groups=3)", "group_limit=1 must be from 1 to groups=3 and leave top_k=3 experts"),
        ("top_k=1, router=softmax(groups=3, group_best=3)", "group_best=3 must be from 1 to the 2 experts of a group"),
        ("top_k=1, router=expert_choice(balance=0.1)", "expert_choice has no argument 'balance'"),
        ("top_k=1, router=softmax, capacity=0", "capacity=0.0 must be above 0 (None drops nothing)"),
        ("top_k=1, router=softmax(experts=8)", "experts=6, but its router has experts=8"),
        ("top_k=1, router=softmax, slots=3, capacity=1", "slots and capacity say the same: give one of them"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        resolved(arguments)
    assert message in str(caught.value)


def test_experts_are_feed_forwards_of_one_stage():
    for inner in ("moe(experts=2, top_k=1, router=softmax, expert=relu(d_ff=2))", "relu(d_ff=2, inner_norm=rmsnorm(eps=1e-6))"):
        scope = spec.Scope("mlp", {"d_model": D}, {"initializer": "normal(std=1)"})
        with pytest.raises(UserError, match="must be a feed-forward of one stage, without an inner norm"):
            spec.resolve(f"moe(experts=2, top_k=1, router=softmax, expert={inner})", ("feedforward",), scope)


def test_an_unknown_implementation_is_named():
    module = registry.instantiate(resolved("top_k=1, router=softmax"))
    with pytest.raises(UserError, match=r"experts: unknown implementation 'raged'.*ragged"):
        module.init(jax.random.key(0), X, context(experts="raged"))


def test_experts_start_like_feed_forwards_of_their_own():
    """Fans are those of one expert, whose initial weights are its own."""
    module = registry.instantiate(resolved("top_k=2, router=softmax(bias_rate=0.1)"))
    boxes = jax.jit(module.init)(jax.random.key(0), X, context())["params"]
    up, kernel = boxes["experts"]["up"], boxes["router"]["kernel"]
    assert (up.fan_in, up.fan_out, up.role, up.names) == (D, 5, "mlp", ("experts", "embed", "mlp"))
    assert (kernel.fan_in, kernel.fan_out, kernel.role) == (D, 6, "router")
    assert boxes["router"]["selection_bias"].role == "selection"
    assert not np.any(boxes["router"]["selection_bias"].value)
    assert len(np.unique(up.value)) == up.value.size
