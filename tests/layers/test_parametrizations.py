"""muP against Table 8 of arXiv:2203.03466 written out by hand, and what it leaves alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.interop import engine
from taxonomy.layers.params import Declared
from taxonomy.model import blank, build
from taxonomy.scaling.widths import widened

IS_DECLARED = {"is_leaf": lambda leaf: isinstance(leaf, Declared)}
BASE, TIMES = 64, 4
MUP = {"parametrization": f"mup(d_model={BASE})"}
# By path: the standard deviation of initial values and the multiplier of Adam's learning rate in a model four times as wide as its
# base, whose sentences say what stands on the left: widths of 64, 16 a head, and d_ff.
FAMILIES = {
    # 0.02, 0.02 / (2 * 2 layers)**0.5 into the stream, 0.01 for positions; everything inside the stack over 4**0.5
    "gpt2": (
        1 / TIMES,
        {
            r"embedding/table": (0.02, 1),
            r"embedding/positions/table": (0.01, 1),
            r"attention/(query|key|value)": (0.02 / 2, 1 / 4),
            r"attention/out": (0.01 / 2, 1 / 4),
            r"mlp/up": (0.02 / 2, 1 / 4),
            r"mlp/down": (0.01 / 2, 1 / 4),
            r".*(bias|bias_D|norm/scale)": (0, 1),
        },
    ),
    # 1 / fan_in: the base's 64, 64 (4 heads of 16) and 128, times 4
    "t5": (
        64**-0.5 / TIMES,
        {
            r"embedding/table": (1.0, 1),
            r"(en|de)coder_positions/table": (32**-0.5, 1),
            r"(encoder_|cross_)?attention/(query|key|value)": (64**-0.5 / 2, 1 / 4),
            r"(encoder_|cross_)?attention/out": (64**-0.5 / 2, 1 / 4),
            r"mlp/up": (64**-0.5 / 2, 1 / 4),
            r"mlp/down": (128**-0.5 / 2, 1 / 4),
            r".*norm/scale": (0, 1),
        },
    ),
    # The router is an output of Table 3: 1 / fan_in**2. Experts have 0.1 / fan_in, of 64 and 96 in the base.
    "switch": (
        64**-0.5 / TIMES,
        {
            r"embedding/table": (1.0, 1),
            r"(en|de)coder_positions/table": (32**-0.5, 1),
            r"(encoder_|cross_)?attention/(query|key|value|out)": (64**-0.5 / 2, 1 / 4),
            r"mlp/up": (64**-0.5 / 2, 1 / 4),
            r"mlp/down": (96**-0.5 / 2, 1 / 4),
            r"moe/router/kernel": (64**-0.5 / 4, 1 / 4),
            r"moe/experts/up": ((0.1 / 64) ** 0.5 / 2, 1 / 4),
            r"moe/experts/down": ((0.1 / 96) ** 0.5 / 2, 1 / 4),
            r".*norm/scale": (0, 1),
        },
    ),
}


def section(family: str, d_model: int = BASE, **changes) -> dict:
    return widened(config_lib.load_config(f"{family}:tiny").model.to_dict(), d_model) | changes


def by_path(tree) -> dict[str, Declared]:
    """Parameters by path."""
    return {"/".join(k.key for k in path): box for path, box in jax.tree_util.tree_flatten_with_path(tree, **IS_DECLARED)[0]}


def initialised(model: spec.Model):
    return build(model).init(jax.random.key(0), **blank(model))["params"]


def declared(model: spec.Model) -> dict[str, Declared]:
    """Parameters by path, as shapes."""
    return by_path(jax.eval_shape(lambda: initialised(model)))


def adam_rates(boxes: dict[str, Declared]) -> dict[str, float]:
    """How far the first step of Adam goes at a rate of one, which without a parametrization is one."""
    transform = registry.create("optimizer", "adamw(eps=0)", "optimizer").transform(boxes)
    ones = {name: jnp.ones(box.value.shape) for name, box in boxes.items()}
    updates, _ = transform.update(ones, transform.init(ones), ones)
    return {name: -float(update.mean()) for name, update in updates.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_table_8_by_hand(family):
    output, table = FAMILIES[family]
    model = spec.model(section(family, TIMES * BASE, **MUP))
    boxes = declared(model)
    values = by_path(jax.jit(lambda: initialised(model))())
    rates = adam_rates(boxes)
    for name, box in boxes.items():
        found = [expected for pattern, expected in table.items() if re.fullmatch(f"(.*/)?{pattern}", name)]
        assert len(found) == 1, (name, found)
        std, rate = found[0]
        assert rates[name] == pytest.approx(rate, rel=1e-4), name
        # The standard error of a standard deviation of n normal draws is std / sqrt(2n).
        assert abs(np.asarray(values[name].value).std() - std) <= 5 * std / (2 * box.value.size) ** 0.5, name
    assert model.head["scale"] * model.output_scale(model.d_model) == pytest.approx(output)


@pytest.mark.parametrize(("family", "ratio"), [("gpt2", 1 / 4), ("t5", 8**-1 / 4 / 16**-1)])
def test_logits_are_multiplied(family, ratio, random_params):
    """The same parameters, with and without: everything but the head computes the same where heads are more and not wider."""
    plain, mup = (
        spec.model(section(family, TIMES * BASE, **changes)) for changes in ({}, {"parametrization": f"mup(d_model={BASE})"})
    )
    inputs = blank(plain, time=5)
    params = random_params(build(plain), **inputs)
    expected, found = (jax.jit(build(one).apply)({"params": params}, **inputs) for one in (plain, mup))
    np.testing.assert_allclose(found, ratio * expected, rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("family", ["gpt2", "t5", "switch", "deepseek_v3", "gemma2", "gpt_neox", "palm", "gshard"])
def test_a_base_is_what_its_sentences_say(family):
    """At its own width nothing changes: not a bit of the initial values, no scale, no rate."""
    plain, mup = (spec.model(section(family, **changes)) for changes in ({}, MUP))
    assert plain.output_scale(BASE) == mup.output_scale(BASE) == 1.0
    attentions = [[part for _, block in one.blocks for part in block.walk() if part.kind == "attention"] for one in (plain, mup)]
    assert [part["scale"] for part in attentions[0]] == [part["scale"] for part in attentions[1]]
    boxes = declared(plain)
    assert boxes.keys() == declared(mup).keys() and all(box.growth_in == box.growth_out == 1 for box in declared(mup).values())
    for found, expected in zip(initialisers(mup), initialisers(plain), strict=True):
        assert (found.name, found["base"], found["width"]) == ("grown", expected, 1.0)


def initialisers(model: spec.Model) -> list[registry.Component]:
    found = (part.get("initializer") for _, block in model.blocks for part in block.walk())
    return [model.initializer, *filter(None, found)]


def test_without_a_parametrization_there_is_no_trace_of_it():
    model = spec.model(section("gpt2"))
    assert model.parametrization is None and not any(part.name == "grown" for part in initialisers(model))
    assert all(box.growth_in == box.growth_out == 1 for box in declared(model).values())


SECTION = dict(
    vocab=512,
    d_model=256,
    context=32,
    norm="rmsnorm(eps=1e-5)",
    position="rope",
    attention="mha(heads=16)",
    mlp="gelu(d_ff=4*d_model)",
    blocks=dict(block="pre(attention, mlp)"),
    decoder="2*block",
    head="untied",
    initializer="normal(std=0.02)",
    parametrization="mup(d_model=64)",
)


def read(**changes) -> spec.Model:
    return spec.model(SECTION | changes)


def attention(model: spec.Model) -> registry.Component:
    return model.block("block")["sublayers"][0]


@pytest.mark.parametrize(
    ("parametrization", "sentence", "scale"),
    [
        ("mup(d_model=64)", "mha(heads=16)", 16**-0.5),
        ("mup(d_model=64)", "mha(heads=16, scale=1)", 1.0),
        ("mup(d_model=64)", "mha(heads=16, scale=(d_model/heads)**-0.5)", 16**-0.5),
        ("mup(d_model=64, head_dim=16)", "mha(heads=4)", 16**-0.5 / 4),
        ("mup(d_model=64, head_dim=16)", "mha(heads=4, scale=1)", 1 / 4),
        ("mup(d_model=64, head_dim=16)", "mha(heads=4, scale=(d_model/heads)**-0.5)", 16**-0.5 / 4),
        ("mup(d_model=64, head_dim=16)", "latent(heads=4, kv_rank=8, head_dim=64, rotary_dim=8)", 24**-0.5 / 4),
    ],
)
def test_scores_go_with_1_over_d(parametrization, sentence, scale):
    assert attention(read(parametrization=parametrization, attention=sentence))["scale"] == pytest.approx(scale)


def test_sentences_mean_the_base():
    """What multiplies tokens, and how parameters start: as the same arithmetic says at the base's width."""
    model = read(
        embedding="table(scale=d_model**0.5)",
        head="untied(scale=d_model**-0.5)",
        initializer="normal(std=(2/(5*d_model))**0.5, residual_std=2/(layers*d_model**0.5), output_std=heads**-0.5)",
    )
    assert (model.embedding["scale"], model.head["scale"]) == (8.0, 1 / 8)
    base = model.initializer["base"]
    assert (base["std"], base["residual_std"], base["output_std"]) == pytest.approx(((2 / 320) ** 0.5, 1 / 8, 4**-0.5))
    assert model.block("block")["sublayers"][1]["d_ff"] == 1024


@pytest.mark.parametrize(
    ("changes", "growths"),
    [
        ({}, {"query": (4, 4), "out": (4, 4), "up": (4, 4), "down": (4, 4), "head/kernel": (4, 1)}),
        ({"attention": "gqa(heads=16, kv_heads=8)"}, {"query": (4, 4), "key": (4, 4)}),
        ({"attention": "mqa(heads=16)"}, {"key": (4, 1), "out": (4, 4)}),
        (
            {"attention": "mqa(heads=4)", "parametrization": "mup(d_model=64, head_dim=16)"},
            {"query": (4, 4), "key": (4, 4), "out": (4, 4)},
        ),
        (
            {"attention": "gqa(heads=16, kv_heads=8)", "parametrization": "mup(d_model=64, fixed=('kv_heads', 'mlp'))"},
            {"query": (4, 4), "key": (4, 1), "up": (4, 1), "down": (1, 4)},
        ),
        # Ranks stay, as in published models; the key that all heads share is no wider.
        (
            {"attention": "latent(heads=16, kv_rank=8, head_dim=16, rotary_dim=8, query_rank=8)"},
            {
                "attention/latent": (4, 1),
                "rotary_key": (4, 1),
                "attention/key": (1, 4),
                "value": (1, 4),
                "query": (1, 4),
                "out": (4, 4),
            },
        ),
        (
            {
                "attention": "latent(heads=16, kv_rank=32, head_dim=16, rotary_dim=8)",
                "parametrization": "mup(d_model=64, fixed=())",
            },
            {"attention/key": (4, 4), "query": (4, 4), "out": (4, 4)},
        ),
        # An embedding of a width of its own, which the head reads back at that width.
        ({"embedding": "table(width=32)", "head": "tied"}, {"head/project": (4, 1), "query": (4, 4)}),
        ({"blocks": {"block": "deepnorm(attention, mlp)"}}, {"value": (4, 4), "down": (4, 4)}),
    ],
)
def test_fans_grow_by_their_axes(changes, growths):
    model = read(**changes)
    boxes = declared(model)
    for ending, growth in growths.items():
        found = {(box.growth_in, box.growth_out) for name, box in boxes.items() if name.endswith(ending)}
        assert found == {growth}, ending
    assert model.output_scale(32) == 1.0 and model.output_scale(256) == 1 / 4


@pytest.mark.parametrize(
    ("parametrization", "message"),
    [
        ("mup", "mup needs the argument 'd_model'"),
        ("mup(d_model=0)", "d_model=0 must be at least 1"),
        ("mup(d_model=64, fixed='latents')", "fixed: unknown axis 'latents'; did you mean 'latent'?"),
        ("nup(d_model=64)", "unknown parametrization 'nup'; did you mean 'mup'?"),
    ],
)
def test_mistakes_are_named(parametrization, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(parametrization=parametrization)


def test_a_generator_says_its_own_base():
    one = config_lib.load_config("electra:tiny").model.to_dict() | {"parametrization": "mup(d_model=32)"}
    with pytest.raises(UserError, match=r"model.generator.parametrization: required"):
        spec.model(one)
    own = spec.model(one | {"generator": one["generator"] | {"parametrization": "mup(d_model=16)"}})
    assert own.generator.output_scale(own.generator.d_model) == 16 / own.generator.d_model


def test_weights_are_not_written_as_those_of_another_model():
    """What multiplies logits is no part of their formats."""
    with pytest.raises(UserError, match=r"output_scale would be 1\.0, not 0\.25"):
        engine.write_config(spec.model(section("gpt2", 256, parametrization="mup(d_model=64)")), "gpt2")
