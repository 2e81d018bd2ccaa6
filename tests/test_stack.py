"""Layer algebra as modules: the scanned and the unrolled layout hold the same layers in the same order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.common import assert_trees_close

from taxonomy import notation, stack
from taxonomy.errors import UserError
from taxonomy.model import build

ALGEBRAS = ["a", "a + b", "3*a", "2*(a + 2*b) + a", "2*(2*(a + b) + 3*a) + b + 2*b", "1*a", "2*(3*a)"]
SECTION = dict(
    vocab=16,
    d_model=8,
    context=8,
    norm="rmsnorm(eps=1e-5)",
    position="rope",
    attention="mha(heads=2)",
    banded="mha(heads=2, mask=local(window=2))",
    mlp="swiglu(d_ff=8)",
    blocks=dict(a="pre(attention, mlp)", b="parallel(banded, mlp)"),  # not both need to be used
    head="tied",
    initializer="normal(std=0.3)",
)


def layers(text: str) -> notation.Layers:
    return notation.layers(text, {"a": "", "b": ""}, {}, "decoder")


def numbered(algebra: notation.Layers, counter=None):
    """A tree in the unrolled layout in which every layer holds its own number."""
    unrolled, counter = {}, iter(range(1000)) if counter is None else counter
    for i, item in enumerate(algebra.items):
        if isinstance(item, str):
            unrolled[f"{i}_{item}"] = {"number": np.asarray(next(counter)), "block": np.asarray(ord(item))}
        else:
            for turn in range(item.count):
                unrolled[f"{i}_repeat_{turn}"] = numbered(item.body, counter)
    return unrolled


@pytest.mark.parametrize("text", ALGEBRAS)
def test_layouts_are_each_others_inverse(text):
    algebra = layers(text)
    unrolled = numbered(algebra)
    stacked = stack.restack(unrolled, algebra)
    again = stack.unstack(stacked, algebra)
    assert jax.tree.structure(again) == jax.tree.structure(unrolled)
    jax.tree.map(np.testing.assert_array_equal, again, unrolled)
    assert stack.is_stacked(stacked) and stack.is_stacked(unrolled) == ("*" not in text)


@pytest.mark.parametrize("text", ALGEBRAS)
def test_locations_follow_the_order_of_the_layers(text):
    algebra = layers(text)
    stacked = stack.restack(numbered(algebra), algebra)
    found = list(stack.locations(algebra))
    assert [block for block, _, _ in found] == list(algebra)
    for number, (block, path, index) in enumerate(found):
        leaf = stacked
        for key in path:
            leaf = leaf[key]
        assert (leaf["number"][index], leaf["block"][index]) == (number, ord(block))


@pytest.mark.parametrize("text", ["2*(2*a + b) + a", "2*(3*a)"])
def test_nested_repeats_scan_as_they_unroll(text, random_params):
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, 16)
    scanned, unrolled = (build({**SECTION, "decoder": text}, scan=scan) for scan in (True, False))
    params = random_params(scanned, tokens)
    flat = {**params, "decoder": stack.unstack(params["decoder"], scanned.spec.decoder)}
    shapes = nn.meta.unbox(jax.eval_shape(unrolled.init, jax.random.key(0), tokens))["params"]
    assert jax.tree.map(jnp.shape, flat) == jax.tree.map(jnp.shape, shapes)
    expected = jax.jit(unrolled.apply)({"params": flat}, tokens)
    assert_trees_close(jax.jit(scanned.apply)({"params": params}, tokens), expected, rtol=1e-5)


def test_layers_of_a_scanned_repeat_start_different():
    model = build({**SECTION, "decoder": "3*(a + b)"})
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    kernels = params["decoder"]["0_repeat"]["0_a"]["attention"]["query"].value
    assert kernels.shape == (3, 8, 2, 4)
    assert not np.allclose(kernels[0], kernels[1]) and not np.allclose(kernels[1], kernels[2])
    np.testing.assert_allclose(np.std(kernels, axis=(1, 2, 3)), 0.3, rtol=0.4)


def test_stacked_parameters_say_so():
    model = build({**SECTION, "decoder": "3*(a + 2*b)"})
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))["params"]["decoder"]
    query = boxed["0_repeat"]["0_a"]["attention"]["query"]
    assert query.names == ("layers", "embed", "heads", "head_dim") and query.value.shape == (3, 8, 2, 4)
    nested = boxed["0_repeat"]["1_repeat"]["0_b"]["banded"]["query"]
    assert nested.value.shape == (3, 2, 8, 2, 4) and nested.names.count("layers") == 2
    assert (query.role, query.fan_in, query.fan_out) == ("query", 8, 8) == (nested.role, nested.fan_in, nested.fan_out)


def test_an_unknown_policy_names_the_nearest():
    model = build({**SECTION, "decoder": "2*(a + b)"}, remat="dot")
    with pytest.raises(UserError, match="remat: unknown policy 'dot'; did you mean 'dots'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))
