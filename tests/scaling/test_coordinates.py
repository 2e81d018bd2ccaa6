"""Coordinate checks: sizes that stay by muP and grow without it, and models widened by their sentences."""

import math

import jax
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import registry, sharding, spec
from taxonomy.errors import UserError
from taxonomy.model import build
from taxonomy.scaling import coordinates
from taxonomy.scaling.widths import widened
from taxonomy.training.step import Trainer

# Between widths 64 and 1024 sizes may differ by less than 1.3 by muP and must by more than 3 without; here between 64 and 256.
# What is left by muP is noise of initial values, 1/sqrt(width) in the narrowest model; what grows without is a power of the width.
NARROW, WIDE = 64, 256
VOCAB, STEPS, ROWS = 64, 50, 8
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


MOE = "moe(experts=4, top_k=2, router=softmax(renormalize=True, balance=0.01), expert=gelu_tanh(d_ff=4*d_model))"
# One layer is enough. Logits begin small, as the paper has it (appendix D.2): at first they are noise, which falls with the width.
CASES = {
    "decoder": ("gpt2:tiny", True, {"decoder": "block"}),
    "encoder_decoder": (
        "t5:tiny",
        False,
        {"encoder": "reading", "decoder": "writing", "initializer": "normal(std=d_model**-0.5, embedding_std=0.1)"},
    ),
    "experts": ("gpt2:tiny", False, {"decoder": "block", "mlp": MOE}),
}


@pytest.mark.parametrize("case", CASES)
def test_sizes_stay_by_mup_alone(case):
    name, wider_heads, changes = CASES[case]
    overrides = {f"model.{key}": value for key, value in changes.items()} | {"train.optimizer": "adamw", "train.context": 32}
    found = coordinates.check(config_lib.load_config(name, overrides), [NARROW, WIDE], 10, 3e-3, rows=8, wider_heads=wider_heads)
    worst = {name: max(found[name]["ratios"].values()) for name in coordinates.PARAMETRIZATIONS}
    assert worst["mup"] < FLAT and worst["standard"] > STEEP, coordinates.shown(found)


def final_losses(config, d_model: int, parametrization: str | None, rates) -> list[float]:
    """After a short training on text whose next token mostly follows from the last one, at each of these rates."""
    section = widened(config.model.to_dict(), d_model) | {"parametrization": parametrization}
    model = spec.model(section)
    trainer = Trainer(
        build(model), registry.create("optimizer", "adamw(b2=0.95)", "optimizer"), sharding.make_mesh("data:1", jax.devices()[:1])
    )
    generator = np.random.default_rng(0)
    follows, batches = generator.permutation(VOCAB), []
    for _ in range(STEPS):
        rows = [generator.integers(VOCAB, size=ROWS)]
        for _ in range(32):
            rows.append(np.where(generator.random(ROWS) < 0.9, follows[rows[-1]], generator.integers(VOCAB, size=ROWS)))
        text = np.stack(rows, 1).astype(np.int32)
        batches.append({"tokens": text[:, :-1], "targets": text[:, 1:]})
    losses = []
    for rate in rates:
        state, late = trainer.init(0), []
        for batch in batches:
            state, metrics = trainer.step(state, trainer.put(batch), rate)
            late.append(metrics["loss"])
        losses.append(float(np.mean(late[-10:])))
    return losses


def test_the_best_rate_stays_by_mup_alone():
    config = config_lib.load_config("gpt2:tiny", {"model.vocab": VOCAB, "model.decoder": "block"})
    rates = [2.0**k for k in range(-10, -3)]
    # The narrow one is muP's base, in which nothing changes.
    sentences = ((32, None), (128, None), (128, f"mup(d_model={32})"))
    narrow, wide, mup = (int(np.argmin(final_losses(config, *sentence, rates))) for sentence in sentences)
    assert abs(mup - narrow) <= 1 and wide <= narrow - 2, (narrow, wide, mup)
