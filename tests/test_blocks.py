"""Wirings: each block computes its formula, written out here with the block's own sublayers and norms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry, spec
from taxonomy.layers.context import Context
from taxonomy.layers.params import Declared

KEYS = {
    "norm": "layernorm(eps=1e-5)",
    "position": "rope",
    "mask": "causal",
    "initializer": "normal(std=0.1)",
    "attention": "gqa(heads=4, kv_heads=2, head_dim=8)",
    "mlp": "swiglu(d_ff=24)",
}
SCALARS = {"vocab": 32, "d_model": 16, "context": 8, "layers": 3}
CONTEXT = Context(jnp.broadcast_to(jnp.arange(6), (2, 6)))


def resolve(text: str) -> registry.Component:
    return spec.resolve(text, ("block",), spec.Scope("blocks.block", SCALARS, KEYS))


@functools.partial(jax.jit, static_argnums=0)
def _apply(part, params, *arguments):
    return registry.instantiate(part).apply({"params": params}, *arguments)


class Parts:
    """A block's sublayers f and norms n by name, to write its formula with."""

    def __init__(self, component, params):
        self.component, self.params, self.used = component, params, set()

    def f(self, label, x, name=None):
        part = next(s for s in self.component["sublayers"] if s.label == label)
        return self._apply(part, name or label, x, CONTEXT)

    def n(self, name, x):
        return self._apply(self.component["norm"], name, x)

    def _apply(self, part, name, *arguments):
        self.used.add(name)
        return _apply(part, self.params[name], *arguments)


def pre(p, x):
    x = x + p.f("attention", p.n("attention_norm", x))
    return x + p.f("mlp", p.n("mlp_norm", x))


def post(p, x):
    x = p.n("attention_norm", x + p.f("attention", x))
    return p.n("mlp_norm", x + p.f("mlp", x))


def sandwich(p, x):
    x = x + p.n("attention_post_norm", p.f("attention", p.n("attention_norm", x)))
    return x + p.n("mlp_post_norm", p.f("mlp", p.n("mlp_norm", x)))


def parallel(p, x):
    normed = p.n("norm_1", x)
    return x + p.f("attention", normed) + p.f("mlp", normed)


def parallel_two_norms(p, x):
    return x + p.f("attention", p.n("attention_norm", x)) + p.f("mlp", p.n("mlp_norm", x))


def deepnorm(p, x):
    alpha = (2 * SCALARS["layers"]) ** 0.25
    x = p.n("attention_norm", alpha * x + p.f("attention", x))
    return p.n("mlp_norm", alpha * x + p.f("mlp", x))


def pre_twice(p, x):
    x = x + p.f("mlp", p.n("mlp_norm", x))
    return x + p.f("mlp", p.n("mlp_2_norm", x), "mlp_2")


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("pre(attention, mlp)", pre),
        ("post(attention, mlp)", post),
        ("sandwich(attention, mlp)", sandwich),
        ("parallel(attention, mlp)", parallel),
        ("parallel(attention, mlp, shared_norm=False)", parallel_two_norms),
        ("deepnorm(attention, mlp)", deepnorm),
        ("pre(mlp, mlp)", pre_twice),
    ],
)
def test_a_block_computes_its_formula(text, formula, random_params):
    component = resolve(text)
    block = registry.instantiate(component)
    x = jax.random.normal(jax.random.key(7), (2, 6, 16))
    params = random_params(block, x, CONTEXT)
    parts = Parts(component, params)
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x, CONTEXT), formula(parts, x), rtol=1e-5, atol=1e-5)
    assert parts.used == set(params)


def test_order_matters_where_the_literature_says_so(random_params):
    x = jax.random.normal(jax.random.key(7), (2, 6, 16))
    first, second = (registry.instantiate(resolve(t)) for t in ("pre(attention, mlp)", "pre(mlp, attention)"))
    params = random_params(first, x, CONTEXT)
    assert not np.allclose(first.apply({"params": params}, x, CONTEXT), second.apply({"params": params}, x, CONTEXT), atol=1e-3)
    first, second = (registry.instantiate(resolve(t)) for t in ("parallel(attention, mlp)", "parallel(mlp, attention)"))
    params = random_params(first, x, CONTEXT)
    np.testing.assert_allclose(first.apply({"params": params}, x, CONTEXT), second.apply({"params": params}, x, CONTEXT), atol=1e-5)


def test_deepnorm_starts_value_feedforward_and_output_projections_smaller():
    """Wang et al. 2022, Figure 2: beta = (8 layers)^(-1/4) on those, and 1 on queries and keys."""
    x = jnp.ones((1, 6, 16))
    plain = registry.instantiate(resolve("post(attention, mlp)")).init(jax.random.key(0), x, CONTEXT)["params"]
    deep = registry.instantiate(resolve("deepnorm(attention, mlp)")).init(jax.random.key(0), x, CONTEXT)["params"]
    is_box = lambda leaf: isinstance(leaf, Declared)  # noqa: E731
    beta = (8 * SCALARS["layers"]) ** -0.25
    assert jax.tree.structure(plain) == jax.tree.structure(deep)
    gains = {"query": 1.0, "key": 1.0, "value": beta, "mlp": beta, "residual": beta, "gain": 1.0, "bias": 1.0}
    boxes = zip(jax.tree.leaves(plain, is_leaf=is_box), jax.tree.leaves(deep, is_leaf=is_box), strict=True)
    for before, after in boxes:
        np.testing.assert_allclose(after.value, before.value * gains[after.role], rtol=1e-6)


@pytest.mark.parametrize("text", ["pre", "post", "sandwich", "parallel", "deepnorm"])
def test_dropout_acts_on_what_is_added_to_the_stream(text, random_params):
    x = jax.random.normal(jax.random.key(7), (2, 6, 16))
    block = registry.instantiate(resolve(f"{text}(attention, mlp, dropout=0.5)"))
    params = random_params(block, x, CONTEXT)
    train = CONTEXT.replace(train=True)
    apply = jax.jit(lambda seed: block.apply({"params": params}, x, train, rngs={"dropout": jax.random.key(seed)}))
    quiet = registry.instantiate(resolve(f"{text}(attention, mlp)")).apply({"params": params}, x, CONTEXT)
    np.testing.assert_array_equal(block.apply({"params": params}, x, CONTEXT), quiet)
    np.testing.assert_array_equal(apply(0), apply(0))
    assert not np.allclose(apply(0), apply(1)) and not np.allclose(apply(0), quiet)
    # Where nothing was added, the stream passes a pre-norm block unchanged.
    if text == "parallel":
        assert 0.15 < np.mean(np.asarray(apply(0)) == np.asarray(x)) < 0.35
