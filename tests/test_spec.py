"""The parsed model: what a sentence leaves out is filled in, and every mistake is one line that names its place."""

import re

import pytest

from taxonomy import config as config_lib
from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.registry import Component

SECTION = dict(
    vocab=512,
    d_model=64,
    context=32,
    norm="layernorm(eps=1e-5)",
    position="rope(theta=5000)",
    attention="mha(heads=4)",
    mlp="gelu(d_ff=4*d_model, bias=True)",
    blocks=dict(block="pre(attention, mlp)"),
    decoder="2*block",
    head="tied",
    initializer="normal(std=0.02)",
)


def read(**changes) -> spec.Model:
    return spec.model({k: v for k, v in {**SECTION, **changes}.items() if v is not ...})


def find(model: spec.Model, label: str, block: str = "block") -> Component:
    return next(part for part in model.block(block).walk() if part.label == label)


def test_what_a_sentence_leaves_out_is_filled_in():
    model = read()
    attention, mlp = model.block("block")["sublayers"]
    assert (attention.kind, attention.name, attention.label) == ("attention", "mha", "attention")
    assert attention["head_dim"] == 16 and attention["scale"] == 16**-0.5
    assert attention["position"] == Component("position", "rope", (*attention["position"].arguments,))
    assert attention["position"]["theta"] == 5000.0 and type(attention["position"]["theta"]) is float
    assert attention["mask"].name == "causal"
    assert (mlp["d_ff"], mlp["bias"]) == (256, True)
    assert model.embedding.name == "table" and model.embedding["position"] == attention["position"]
    assert model.head["vocab"] == 512


def test_arguments_may_stand_in_order():
    keywords = read(attention="gqa(heads=8, kv_heads=2, head_dim=16)", mlp="gelu(d_ff=4*d_model)")
    positions = read(attention="gqa(8, 2, head_dim=d_model/4)", mlp="gelu(4*d_model)")
    assert keywords == positions


def test_sentences_may_use_the_numbers_around_them():
    model = read(
        ratio=3,
        attention="gqa(heads=8, kv_heads=heads/4, head_dim=d_model/heads, scale=1/head_dim, position=rope(dims=head_dim/2))",
        mlp="swiglu(d_ff=heads*head_dim*ratio)",
        initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5)",
        decoder="ratio*block",
    )
    attention, mlp = model.block("block")["sublayers"]
    assert (attention["kv_heads"], attention["head_dim"], attention["scale"], attention["position"]["dims"]) == (2, 8, 1 / 8, 4)
    assert mlp["d_ff"] == 192 and len(model.decoder) == 3
    assert model.initializer["residual_std"] == pytest.approx(0.02 / 6**0.5)


def test_a_key_of_the_model_reaches_every_place_that_did_not_say_otherwise():
    changes = dict(
        own="mha(heads=4, position=rope(theta=7), mask=local(window=8))",
        blocks=dict(block="pre(attention, mlp)", other="post(own, mlp, norm=rmsnorm(eps=0.5))"),
        decoder="2*(block + other)",
    )
    before, after = read(**changes), read(**changes, position="alibi", mask="full", norm="layernorm(eps=2)")
    assert find(after, "attention")["position"].name == "alibi" == after.embedding["position"].name
    assert find(after, "attention")["mask"].name == "full"
    assert after.block("block")["norm"]["eps"] == 2.0
    assert find(after, "own", "other") == find(before, "own", "other")
    assert find(after, "own", "other")["mask"] == Component("mask", "local", (("window", 8),))
    assert (
        after.block("other")["norm"]
        == before.block("other")["norm"]
        == Component("norm", "rmsnorm", (("eps", 0.5), ("gain", True), ("unit_offset", False)))
    )


def test_one_flag_swaps_an_idea_in_the_whole_model(family):
    """Where a sublayer says its own position in place, that stays."""
    section = config_lib.load_config(f"{family}:tiny").model
    before = spec.model(section)
    after = spec.model(config_lib.load_config(f"{family}:tiny", {"model.position": "alibi"}).model)
    attentions = [part for part in after.components() if part.kind == "attention"]
    swapped = {part["position"].name for part in attentions if not re.search(r"\bposition=", section[part.label])}
    assert swapped == {"alibi"} and after.embedding["position"].name == "alibi"
    assert before.decoder == after.decoder and before.head == after.head


def test_a_key_can_be_named_in_place():
    model = read(attention="mha(heads=4, qk_norm=norm, position=other)", other="alibi")
    attention = find(model, "attention")
    assert attention["qk_norm"] == model.block("block")["norm"] and attention["position"].name == "alibi"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "layernorm"),
        ({"final_norm": None}, None),
        ({"final_norm": "rmsnorm(eps=1)"}, "rmsnorm"),
        ({"blocks": dict(block="post(attention, mlp)")}, None),
        ({"blocks": dict(block="deepnorm(attention, mlp)")}, None),
        ({"blocks": dict(block="post(attention, mlp)"), "final_norm": "rmsnorm(eps=1)"}, "rmsnorm"),
        ({"blocks": dict(block="post(attention, mlp)", last="pre(mlp)"), "decoder": "2*block + last"}, "layernorm"),
        ({"blocks": dict(block="pre(attention, mlp)", last="post(mlp)"), "decoder": "2*block + last"}, None),
    ],
)
def test_a_stream_that_leaves_the_last_block_without_a_norm_gets_one(changes, expected):
    final = read(**changes).final_norm
    assert (final and final.name) == expected


def test_sublayers_of_a_block_are_told_apart():
    model = read(blocks=dict(block="pre(attention, mlp, attention, relu(d_ff=8))"))
    assert [s.label for s in model.block("block")["sublayers"]] == ["attention", "mlp", "attention", "relu"]


def test_components_are_listed_once(family):
    model = spec.model(config_lib.load_config(f"{family}:tiny").model)
    listed = model.components()
    assert len(set(listed)) == len(listed)
    assert {model.embedding, model.head, *(b for _, b in model.blocks)} <= set(listed)


def test_resolved_components_print_and_parse_back(family):
    """A printed component is a complete sentence: it means the same without the model around it."""
    model = spec.model(config_lib.load_config(f"{family}:tiny").model)
    for part in model.components():
        assert spec.resolve(str(part), (part.kind,), spec.Scope("printed")) == part


def test_parsed_models_can_be_compared_and_hashed():
    assert read() == read() and hash(read()) == hash(read())
    assert read() != read(position="rope(theta=5001)")


ERRORS = [
    # changes, the place that the message starts with, what it says
    (
        {"attention": "mhaa(heads=4)"},
        "model.attention",
        ["unknown attention or feedforward 'mhaa'", "did you mean 'mha'?", "column 1 of"],
    ),
    (
        {"attention": "mha(heads=4, position=rop)"},
        "model.attention",
        ["unknown position 'rop'", "did you mean 'rope'?", "column 23 of"],
    ),
    ({"position": "alibi2"}, "model.position", ["unknown position 'alibi2'", "did you mean 'alibi'?", "of: alibi2"]),
    ({"position": "layernorm(eps=1)"}, "model.position", ["unknown position 'layernorm'", "allowed: alibi"]),
    (
        {"norm": "rmsnorm(epsilon=1)"},
        "model.norm",
        ["no argument 'epsilon'", "did you mean 'eps'?", "column 17 of: rmsnorm(epsilon=1)"],
    ),
    ({"norm": "rmsnorm"}, "model.norm", ["rmsnorm needs the argument 'eps' (float)", "column 1 of: rmsnorm"]),
    ({"mlp": "gelu(d_ff=4*d_modle)"}, "model.mlp", ["unknown scalar 'd_modle'", "did you mean 'd_model'?", "column 13 of: gelu("]),
    ({"mlp": "gelu(d_ff=8*d_model/3)"}, "model.mlp", ["d_ff=8*d_model/3 is 170.666", "not a whole number"]),
    ({"mlp": "gelu(d_ff='big')"}, "model.mlp", ["'d_ff' takes int, got 'big'", "column 11 of"]),
    ({"mlp": "gelu(d_ff=True)"}, "model.mlp", ["'d_ff' takes int, got True"]),
    ({"mlp": "gelu(d_ff=None)"}, "model.mlp", ["'d_ff' takes int, got None"]),
    ({"mlp": "gelu(d_ff=(1, 2))"}, "model.mlp", ["'d_ff' takes int, got (1, 2)"]),
    ({"mlp": "gelu(d_ff=rope(dims=2))"}, "model.mlp", ["expected a number, got rope(dims=2)"]),
    ({"mlp": "gelu(d_ff=64, bias=1)"}, "model.mlp", ["'bias' takes bool, got 1", "column 20 of"]),
    ({"mlp": "gelu(d_ff=64, bias=bias)"}, "model.mlp", ["'bias' takes bool, got bias"]),
    ({"mlp": "gelu(d_ff=0)"}, "model.mlp", ["d_ff=0 must be at least 1"]),
    ({"mlp": "gelu(d_ff=1/0)"}, "model.mlp", ["1/0 cannot be computed"]),
    ({"mlp": "gelu(1, normal(std=1), False, None, 5)"}, "model.mlp", ["gelu takes at most 4 arguments, got 5"]),
    ({"mlp": "gelu(64, d_ff=64)"}, "model.mlp", ["argument 'd_ff' is given twice"]),
    ({"mlp": "gelu(d_ff=64, d_ff=64)"}, "model.mlp", ["an argument of 'gelu' is given twice"]),
    ({"mlp": "gelu(d_ff=64, initializer=0.02)"}, "model.mlp", ["expected an init component, got 0.02"]),
    ({"mlp": "4*gelu"}, "model.mlp", ["expected an attention or feedforward component, got 4*gelu"]),
    ({"mlp": "gelu(d_ff=64"}, "model.mlp", ["cannot be read ('(' was never closed)", "column 5 of: gelu(d_ff=64"]),
    ({"mlp": ""}, "model.mlp", ["cannot be read"]),
    ({"attention": "mha(heads=5)"}, "model.attention", ["head_dim=d_model / heads is 12.8, not a whole number"]),
    ({"attention": "gqa(heads=4, kv_heads=3)"}, "model.attention", ["heads=4 is not a multiple of kv_heads=3"]),
    ({"attention": "gqa(heads=4, kv_heads=0)"}, "model.attention", ["must be at least 1"]),
    ({"attention": "mha(heads=0, head_dim=4)"}, "model.attention", ["must be at least 1"]),
    ({"position": "rope(dims=32)"}, "model.attention", ["rope rotates 32 dimensions; head_dim=16 allows an even number"]),
    ({"position": "rope(dims=7)"}, "model.position", ["dims=7 must be even"]),
    ({"attention": "mha(heads=4, head_dim=5)"}, "model.attention", ["rope rotates 5 dimensions"]),
    ({"attention": "mha(heads=4, mask=local(window=0))"}, "model.attention", ["window=0 must be at least 1"]),
    (
        {"attention": "mha(heads=4, mask=local(window=context/5))"},
        "model.attention",
        ["window=context/5 is 6.4, not a whole number"],
    ),
    ({"norm": "norm"}, "model.norm", ["the model's key 'norm' is defined by itself (norm -> norm)"]),
    ({"position": "rope(scaling=position)"}, "model.position", ["key 'position' is defined by itself"]),
    (
        {"initializer": "depth_scaled(base=other, gain=1)", "other": "depth_scaled(base=initializer, gain=1)"},
        "model.other",
        ["key 'initializer' is defined by itself (", "initializer -> other -> initializer)"],
    ),
    ({"blocks": dict(block="pre(atention, mlp)")}, "model.blocks.block", ["'atention'", "of: pre(atention, mlp)"]),
    ({"blocks": dict(block="per(attention, mlp)")}, "model.blocks.block", ["unknown block 'per'", "did you mean 'pre'?"]),
    ({"blocks": dict(block="pre()")}, "model.blocks.block", ["pre needs the argument 'sublayers'"]),
    ({"blocks": dict(block="pre(sublayers=())")}, "model.blocks.block", ["needs at least one sublayer"]),
    ({"blocks": dict(block="pre(attention, mlp, shared_norm=True)")}, "model.blocks.block", ["pre has no argument 'shared_norm'"]),
    ({"blocks": dict(block="attention")}, "model.blocks.block", ["unknown block 'attention'"]),
    ({"blocks": dict(block=None)}, "model.blocks.block", ["expected a string", "got None"]),
    ({"blocks": "pre(attention, mlp)"}, "model.blocks", ["expected blocks by name", "got 'pre(attention, mlp)'"]),
    ({"blocks": {}}, "model.decoder", ["unknown block 'block'"]),
    ({"decoder": "2*blok"}, "model.decoder", ["unknown block 'blok'", "did you mean 'block'?", "column 3 of: 2*blok"]),
    ({"decoder": "2.5*block"}, "model.decoder", ["a whole number of at least 1, got 2.5"]),
    ({"decoder": 2}, "model.decoder", ["got 2"]),
    ({"decoder": ...}, "model.decoder", ["required, but missing"]),
    ({"blocks": ...}, "model.blocks", ["required, but missing"]),
    ({"head": ...}, "model.head", ["required, but missing"]),
    ({"head": None}, "model.head", ["required, but missing"]),
    ({"head": True}, "model.head", ["expected a sentence", "got True"]),
    ({"initializer": ...}, "model.initializer", ["required, but missing"]),
    ({"final_norm": True}, "model.final_norm", ["expected a sentence", "got True"]),
    ({"norm": ...}, "model.blocks.block", ["pre needs the argument 'norm' (a norm component), here or as the model's key 'norm'"]),
    ({"position": None}, "model.attention", ["mha needs the argument 'position'", "the model's key 'position'"]),
    ({"attention": ...}, "model.blocks.block", ["unknown attention or feedforward 'attention'"]),
    ({"vocab": ...}, "model.vocab", ["a whole number of at least 1 is required, got None"]),
    ({"d_model": 64.0}, "model.d_model", ["a whole number of at least 1 is required, got 64.0"]),
    ({"context": True}, "model.context", ["a whole number of at least 1 is required, got True"]),
    ({"vocab": 0}, "model.vocab", ["a whole number of at least 1 is required, got 0"]),
    ({"attenton": "mha(heads=4)"}, "model.attenton", ["nothing uses this key", "did you mean 'attention'?"]),
    ({"decodr": "2*block"}, "model.decodr", ["nothing uses this key", "did you mean 'decoder'?"]),
    ({"contxt": 64}, "model.contxt", ["nothing uses this key", "did you mean 'context'?"]),
    ({"tied": True}, "model.tied", ["expected", "got True"]),
    ({"embedding": "table(scale=d_model**0.5, positoin=none)"}, "model.embedding", ["did you mean 'position'?"]),
    ({"head": "tied(kernel=2)"}, "model.head", ["tied has no argument 'kernel'"]),
]


@pytest.mark.parametrize(("changes", "place", "said"), ERRORS, ids=[str(changes)[:60] for changes, _, _ in ERRORS])
def test_a_mistake_is_one_line_that_names_its_place(changes, place, said):
    with pytest.raises(UserError) as caught:
        read(**changes)
    message = str(caught.value)
    assert message.startswith(f"{place}: ") and len(message.splitlines()) == 1
    for words in said:
        assert words in message
    if "column" in message:  # a mistake inside a sentence shows the sentence
        key, _, block = place.removeprefix("model.").partition(".")
        sentence = {**SECTION, **changes}[key]
        assert message.endswith(f" of: {sentence[block] if block else sentence}")


def test_expressions_outside_a_model_use_the_same_notation():
    with pytest.raises(UserError, match=r"^train\.norm: unknown norm 'rms'; did you mean 'rmsnorm'\?"):
        registry.create("norm", "rms(eps=1)", "train.norm")
    assert registry.create("mask", "local(window=2*half)", "x", half=4).window == 8
