"""Parallel tracks, against a loop over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.model import build
from taxonomy.scaling import accounting

SECTION = dict(
    vocab=32,
    d_model=16,
    context=16,
    norm="rmsnorm(eps=1e-5)",
    position="rope",
    attention="gqa(heads=4, kv_heads=2)",
    local="gqa(heads=2, kv_heads=1, mask=local(window=3))",
    mlp="swiglu(d_ff=24)",
    blocks=dict(track="tracks(pre(local, mlp), parallel(attention, mlp), count=3)", plain="pre(local, mlp)"),
    decoder="2*track",
    head="tied",
    initializer="normal(std=0.1)",
)


def test_tracks_add_to_the_stream_side_by_side(random_params):
    model = spec.model(SECTION)
    tracks = model.block("track")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 16)), jnp.float32)
    context = Context(jnp.broadcast_to(jnp.arange(7), (2, 7)))
    module = registry.instantiate(tracks)
    params = random_params(module, x, context)
    expected = x
    for number in range(3):
        y, own = x, jax.tree.map(lambda a, number=number: a[number], params["tracks"])
        for name, block in zip(("0_pre", "1_parallel"), tracks["blocks"], strict=True):
            y = registry.instantiate(block).apply({"params": own[name]}, y, context)
        expected = expected + (y - x)
    np.testing.assert_allclose(module.apply({"params": params}, x, context), expected, rtol=1e-5, atol=1e-5)


def test_what_tracks_cost():
    """As much as their blocks would cost in turn, which have the same parameters and layers of attention."""
    side_by_side = accounting.count(SECTION)
    blocks = dict(plain="pre(local, mlp)", other="parallel(attention, mlp)")
    in_turn = accounting.count({**SECTION, "blocks": blocks, "decoder": "6*(plain + other)"})
    for name in ("parameters", "flops_per_token", "attention_flops_per_token", "kv_cache_bytes_per_token", "kv_cache_bytes"):
        assert getattr(side_by_side, name) == getattr(in_turn, name), name
    axes = {
        one.names[:2] for _, one in accounting.declarations(spec.model(SECTION)) if len(one.names) > 2 and one.role != "embedding"
    }
    assert axes == {("layers", "tracks")}


def test_impossible_tracks():
    for sentence, said in (
        ("tracks(plain, count=0)", "unknown block 'plain'"),
        ("tracks(pre(mlp), count=0)", "count=0 must be at least 1"),
        (
            "tracks(pre(attention, mlp), pre(local, gqa(heads=4, kv_heads=2, lends=True)), count=2)",
            "lends=True and source='earlier' do not stand in a block inside another",
        ),
    ):
        with pytest.raises(UserError, match=said):
            build({**SECTION, "blocks": {"track": sentence}})
