"""What routers promise besides their formulas, which `test_experts` has: chance, causality, balance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context

TIME, D, EXPERTS = 24, 8, 4
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((2, TIME, D)).astype(np.float32)
TOKENS = GENERATOR.integers(0, 50, (2, TIME))
ROUTERS = {
    "softmax": "top_k=2, router=softmax",
    "sigmoid": "top_k=2, router=sigmoid(bias_rate=0.1)",
    "noisy_top_k": "top_k=2, router=noisy_top_k",
    "top2": "top_k=2, router=top2",
    "expert_choice": "top_k=2, router=expert_choice",
    "base": "top_k=1, router=base",
    "s_base": "top_k=1, router=s_base",
    "hash": "top_k=1, router=hash",
    "domain": "top_k=1, router=domain",
}
CHANCE = {"softmax(jitter=0.5)": 2, "noisy_top_k": 2, "top2": 2}


def layer(arguments: str):
    scope = spec.Scope("mlp", {"d_model": D}, {"initializer": "normal(std=1)"})
    sentence = f"moe(experts={EXPERTS}, expert=relu(d_ff=4), {arguments})"
    return registry.instantiate(spec.resolve(sentence, ("feedforward",), scope))


def context(train=False, time=TIME) -> Context:
    places = jnp.broadcast_to(jnp.arange(time), (2, time))
    return Context(places, jnp.ones_like(places), tokens_BT=jnp.asarray(TOKENS), train=train)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(module, params, x, train=False, key=None):
    return module.apply({"params": params}, x, context(train), rngs=None if key is None else {"dropout": key})


@pytest.mark.parametrize("name", [e.name for e in registry.entries("router")])
def test_every_router_is_tested_here(name):
    assert name in ROUTERS


@pytest.mark.parametrize(("router", "top_k"), CHANCE.items())
def test_chance_is_for_training_and_follows_its_key(router, top_k, random_params):
    module = layer(f"top_k={top_k}, router={router}")
    params = random_params(module, X, context())
    rested = apply(module, params, X)
    one, again, other = (apply(module, params, X, True, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    for a, b in ((one, other), (one, rested)):
        assert np.mean(np.any(a != b, -1)) > 0.2
    with pytest.raises(Exception, match="dropout"):
        apply(module, params, X, True)


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "hash", "domain"])
def test_without_chance_training_changes_nothing(name, random_params):
    module = layer(ROUTERS[name])
    params = random_params(module, X, context())
    np.testing.assert_array_equal(apply(module, params, X, True), apply(module, params, X))


def test_jitter_multiplies_what_the_router_reads(random_params, monkeypatch):
    """By numbers from 1 - jitter to 1 + jitter; what the experts read stays."""
    drawn = GENERATOR.uniform(0.7, 1.3, X.shape).astype(np.float32)
    jittered, plain = layer("top_k=2, router=softmax(jitter=0.3)"), layer("top_k=2, router=softmax")
    params = random_params(plain, X, context())
    asked = []

    def uniform(key, shape, minval, maxval):
        asked.append((shape, minval, maxval))
        return jnp.asarray(drawn)

    monkeypatch.setattr(jax.random, "uniform", uniform)
    routed = lambda module, x: registry.instantiate(module.router).apply(  # noqa: E731
        {"params": params["router"]}, x, context(train=True), rngs={"dropout": jax.random.key(0)}
    )
    found, expected = routed(jittered, X), routed(plain, X * drawn)
    np.testing.assert_allclose(found.probabilities_BTE, expected.probabilities_BTE, rtol=1e-6)
    assert asked == [(X.shape, 0.7, 1.3)]


def test_the_second_expert_is_taken_with_twice_its_weight():
    """Experts of weights 0.8 and 0.2 whatever the token: the second one four times in ten, for 0.2 each."""
    router = registry.instantiate(layer("top_k=2, router=top2(bias=True)").router)
    params = {"kernel": jnp.zeros((D, EXPERTS)), "bias_E": jnp.log(jnp.array([0.02, 0.8, 0.02, 0.2]))}
    places = Context(jnp.zeros((1, 4000), jnp.int32), train=True)
    x = jnp.zeros((1, 4000, D))
    found = router.apply({"params": params}, x, places, rngs={"dropout": jax.random.key(0)}).assignments
    first, second = np.split(np.asarray(found.experts_BA[0]), 2)
    assert (set(first), set(second)) == ({1}, {3})
    taken = np.asarray(found.live_BA[0])
    assert taken[:4000].all()
    assert abs(taken[4000:].mean() - 0.4) < 5 * (0.4 * 0.6 / 4000) ** 0.5
    np.testing.assert_allclose(found.weights_BA[0, 4000:], 0.2, rtol=1e-6)
    assert router.apply({"params": params}, x, places.replace(train=False)).assignments.live_BA.all()


def leak(module, params, train) -> float:
    """How many of the first ten tokens' outputs change with later tokens."""
    key = jax.random.key(0) if train else None
    changed = X.copy()
    changed[:, 10:] = GENERATOR.standard_normal(changed[:, 10:].shape) + 1.0
    before, after = (np.asarray(apply(module, params, x, train, key))[:, :10] for x in (X, changed))
    return int(np.sum(np.any(before != after, -1)))


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", ROUTERS)
def test_routers_are_causal_or_say_that_they_are_not(name, train, random_params):
    """Without a capacity, and with one that drops a part."""
    module = layer(ROUTERS[name])
    params = random_params(module, X, context())
    says = registry.find(("router",), name).factory.causal
    leaks = leak(module, params, train)
    expected = not says and (train or name not in ("base", "s_base"))  # which is greedy after training
    assert (leaks > 0) == expected
    # First choices of later tokens may take the place of a second choice.
    tight = layer(ROUTERS[name] + ", capacity=0.5")
    assert (leak(tight, params, train) > 0) == (expected or name == "top2")
    text = " ".join((registry.find(("router",), name).factory.__doc__).split())
    assert ("not causal" in text) == (not says)


@pytest.mark.parametrize("name", ["expert_choice", "base"])
def test_balanced_routers_fill_experts_evenly(name, random_params):
    """As many of a row's real tokens each, whatever is beside them; no padding."""
    module = layer(ROUTERS[name])
    router, params = registry.instantiate(module.router), random_params(module, X, context())
    segments = np.ones((2, TIME), np.int32)
    segments[1, 10:] = 0
    places = context(train=True).replace(segments_BT=jnp.asarray(segments))
    routed = jax.jit(lambda x, places: router.apply({"params": params["router"]}, x, places).assignments)
    found = routed(X + 2, places)
    for row, real in enumerate((TIME, 10)):
        live = np.asarray(found.live_BA[row])
        assert np.asarray(found.tokens_BA[row])[live].max() < real
        counts = np.bincount(np.asarray(found.experts_BA[row])[live], minlength=EXPERTS)
        share = -(-real * module.top_k // EXPERTS)
        assert counts.max() == share
        assert name == "base" or counts.min() == share
    # A row that ends where the padding begins is assigned the same.
    short = Context(jnp.zeros((1, 10), jnp.int32), train=True)
    alone = routed(X[1:, :10] + 2, short)
    triples = lambda one, row: sorted(  # noqa: E731
        (int(t), int(e)) for t, e, live in zip(one.tokens_BA[row], one.experts_BA[row], one.live_BA[row], strict=True) if live
    )
    assert triples(alone, 0) == triples(found, 1)


def test_the_hash_spreads_the_vocabulary_and_follows_its_seed():
    experts, ids = 16, jnp.arange(32000)[None]

    def chosen(seed):
        scope = spec.Scope("router", {"experts": experts, "top_k": 1}, {})
        router = registry.instantiate(spec.resolve(f"hash(seed={seed})", ("router",), scope))
        places = Context(jnp.zeros_like(ids), tokens_BT=ids)
        return np.asarray(router.apply({}, jnp.zeros((1, 32000, 2)), places).assignments.experts_BA[0])

    one, other = chosen(0), chosen(1)
    for found in (one, other):
        expected, spread = 32000 / experts, (32000 / experts * (1 - 1 / experts)) ** 0.5
        assert np.all(np.abs(np.bincount(found, minlength=experts) - expected) < 5 * spread)
    assert abs((one == other).mean() - 1 / experts) < 0.01
    assert one[:8].tolist() == [0, 15, 1, 2, 3, 6, 4, 14]  # for good: checkpoints depend on it


def test_the_hash_needs_ids_that_may_be_seen():
    module = layer(ROUTERS["hash"])
    with pytest.raises(UserError, match="hash: this router reads the ids of tokens"):
        module.init(jax.random.key(0), X, context().replace(tokens_BT=None))
