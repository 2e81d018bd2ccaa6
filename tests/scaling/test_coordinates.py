"""Coordinate checks: sizes that stay by muP and grow without it, and models widened by their sentences."""

import math

import pytest

from taxonomy import config as config_lib
from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.scaling import coordinates
from taxonomy.scaling.widths import widened

# Between widths 64 and 1024 sizes may differ by less than 1.3 by muP and must by more than 3 without; here between 32 and 256.
# What is left by muP is noise of initial values, 1/sqrt(width) in the narrowest model; what grows without is a power of the width.
NARROW, WIDE = 32, 256
FLAT = 1 + 0.3 * math.sqrt(64 / NARROW)
STEEP = 3 ** (math.log(WIDE / NARROW) / math.log(1024 / 64))


def test_what_grows_with_a_model():
    section = dict(
        d_model=64,
        context=32,
        attention="gqa(4, 2, head_dim=16, position=rope(dims=8))",
        latent="latent(heads=4, kv_rank=8, head_dim=16, rotary_dim=8)",
        mlp="moe(experts=4, top_k=2, router=softmax, expert=swiglu(96), shared=gelu(d_ff=4*d_model))",
        embedding="projected(table(d_model=32))",
        blocks=dict(block="pre(attention, mlp, relu(d_ff=8))"),
        decoder="2*block",
        final_norm=None,
    )
    found = widened(section, 192)
    assert found == dict(
        d_model=192,
        context=32,
        attention="gqa(12, 6, head_dim=16, position=rope(dims=8))",
        latent="latent(heads=12, kv_rank=8, head_dim=16, rotary_dim=8)",
        mlp="moe(experts=4, top_k=2, router=softmax, expert=swiglu(288), shared=gelu(d_ff=4*d_model))",
        embedding="projected(table(d_model=32))",
        blocks=dict(block="pre(attention, mlp, relu(d_ff=24))"),
        decoder="2*block",
        final_norm=None,
    )
    assert widened(section, 192, wider_heads=True)["attention"] == "gqa(4, 2, head_dim=48, position=rope(dims=8))"
    with pytest.raises(UserError, match="heads=4 times 1/8 is not a whole number"):
        widened(section, 8)


@pytest.mark.parametrize("wider_heads", [False, True])
def test_every_family_can_be_wider(family, wider_heads):
    section = config_lib.load_config(f"{family}:tiny").model.to_dict()
    model = spec.model(widened(section, 2 * section["d_model"], wider_heads))
    narrow = spec.model(section)
    assert model.d_model == 2 * narrow.d_model and len(model.components()) == len(narrow.components())


@pytest.mark.parametrize(
    ("name", "rate", "wider_heads"),
    [("gpt2:tiny", 3e-3, False), ("gpt2:tiny", 3e-3, True), ("t5:tiny", 3e-3, False), ("mixtral:tiny", 3e-3, False)],
    ids=["decoder", "wider_heads", "encoder_decoder", "experts"],
)
def test_sizes_stay_by_mup_alone(name, rate, wider_heads):
    config = config_lib.load_config(name)
    found = coordinates.check(config, [NARROW, WIDE], steps=10, rate=rate, rows=4, wider_heads=wider_heads)
    worst = {name: max(found[name]["ratios"].values()) for name in coordinates.PARAMETRIZATIONS}
    assert worst["mup"] < FLAT and worst["standard"] > STEEP
