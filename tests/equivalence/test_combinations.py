"""Ideas combine: any two of them, in every family, by overriding single keys; and some whole combinations run."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import notation, registry
from taxonomy.model import build

POSITIONS = ["learned", "sinusoidal", "rope", "rope(dims=8, interleaved=True)", "alibi", "t5_bias", "transformer_xl", "none"]
NORMS = ["layernorm(eps=1e-5)", "layernorm(eps=1e-5, bias=False)", "rmsnorm(eps=1e-6)"]
MLPS = [
    "relu",
    "relu2",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "silu",
    "solu",
    "glu",
    "reglu",
    "geglu",
    "swiglu",
    "clamped_swiglu(limit=2)",
]
WIRINGS = ["pre({})", "post({})", "sandwich({})", "parallel({})", "parallel({}, shared_norm=False)", "deepnorm({})"]
AXES = (POSITIONS, NORMS, MLPS, WIRINGS)
# One combination for each position and feed-forward, turned so that every pair of any two axes occurs.
COVERING = [(p, (p // 2 + m) % 3, m, (p + m) % 6) for p, m in itertools.product(range(len(POSITIONS)), range(len(MLPS)))]


def combine(family: str, position: str, norm: str, mlp: str, wiring: str):
    """A family's tiny model with four ideas exchanged, each by the one key that holds it."""
    page = config_lib.load_config(f"{family}:tiny").model
    overrides = {
        "model.ahead": None,
        "model.position": position,
        "model.norm": norm,
        "model.mlp": f"{mlp.removesuffix(')')}{', ' if '(' in mlp else '('}d_ff=96)",
    }
    for name, sentence in page.blocks.items():
        block = notation.parse(sentence)
        while isinstance(block.positional[0], notation.Call):  # a block inside a block
            block = block.positional[0]
        sublayers = ", ".join(map(notation.show, block.positional))
        overrides[f"model.blocks.{name}"] = wiring.format(sublayers)
    return build(config_lib.load_config(f"{family}:tiny", overrides).model)


def test_all_pairs_are_covered():
    assert len(set(COVERING)) == len(COVERING)
    for (i, first), (j, second) in itertools.combinations(enumerate(AXES), 2):
        assert {(c[i], c[j]) for c in COVERING} == set(itertools.product(range(len(first)), range(len(second))))


def test_all_feedforwards_take_part():
    plain = {e.name for e in registry.entries("feedforward") if e.factory.__module__ == "taxonomy.layers.feedforward"}
    assert {m.split("(")[0] for m in MLPS} == plain
    assert {w.split("(")[0] for w in WIRINGS} <= {e.name for e in registry.entries("block")}


# Every family takes some of them in turn, two take all.
SHARE = 12


def test_any_two_ideas_build(family):
    if "mlp" not in config_lib.load_config(f"{family}:tiny").model:
        pytest.skip("its layers differ: no single key holds the idea")
    turn = config_lib.families().index(family)
    chosen = COVERING if family in ("gpt3", "palm") else [COVERING[(turn * SHARE + i) % len(COVERING)] for i in range(SHARE)]
    for choice in chosen:
        ideas = [axis[i] for axis, i in zip(AXES, choice, strict=True)]
        model = combine(family, *ideas)
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
        assert logits.shape == (1, 8, model.spec.vocab), ideas
        used = {part.name for part in model.spec.components()}
        assert {idea.split("(")[0] for idea in ideas} <= used, ideas


@functools.cache
def sample(count: int = 12) -> list[tuple[str, ...]]:
    """The same pseudo-random combinations every time, families in turn."""
    generator = np.random.default_rng(2017)
    families = [f for f in config_lib.families() if "tiny" in config_lib.sizes(f)]
    models = {f: config_lib.load_config(f"{f}:tiny").model for f in families}
    families = [f for f, model in models.items() if "mlp" in model and "encoder" not in model]
    order = generator.permutation(len(families))
    return [(families[order[i % len(families)]], *(axis[generator.integers(len(axis))] for axis in AXES)) for i in range(count)]


@pytest.mark.parametrize("combination", sample(), ids="-".join)
def test_combinations_run_and_are_causal(combination, random_params, nudged):
    model = combine(*combination)
    tokens = np.random.default_rng(0).integers(0, model.spec.vocab, (2, 24), dtype=np.int32)
    params = random_params(model, tokens)
    place = 13

    @jax.jit
    def run(params, tokens):
        nudge = jnp.zeros((*tokens.shape, model.spec.d_model))
        logits, pull = jax.vjp(lambda params, nudge: nudged(model, params, (tokens,), nudge), params, nudge)
        direction = jax.random.normal(jax.random.key(0), logits.shape)
        at_place = jnp.where(jnp.arange(tokens.shape[1])[:, None] == place, direction, 0)
        by_params, by_inputs = jax.vmap(pull)(jnp.stack([direction, at_place]))
        return logits, jax.tree.map(lambda g: g[0], by_params), by_inputs[1]

    logits, by_params, by_inputs = run(params, tokens)
    assert np.isfinite(logits).all() and np.std(logits) > 0.01
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(by_params))
    assert not np.any(by_inputs[:, place + 1 :]) and np.all(np.any(by_inputs[:, place - 1 : place + 1], -1))
