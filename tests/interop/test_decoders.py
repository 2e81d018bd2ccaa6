"""Words that tables share: lists of layers as layer algebra, rotary positions of all kinds, heads."""

import math

import pytest

from taxonomy import notation, spec
from taxonomy.errors import UserError
from taxonomy.interop import decoders, engine
from taxonomy.interop.family import Fields
from taxonomy.interop.rope import partial_factor, rope, rope_parameters


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        ("f" * 32, "32*f"),
        ("f", "f"),
        ("lf" * 13, "13*(l + f)"),
        ("llllllf"[1:] * 4 + "ll", "4*(5*l + f) + 2*l"),
        ("llf" * 5 + "l", "5*(2*l + f) + l"),
        ("f" * 28 + "l" * 4, "28*f + 4*l"),
        ("lfl", "l + f + l"),
        ("fffnfffn" + "fff", "2*(3*f + n) + 3*f"),
        ("fffn" * 9, "9*(3*f + n)"),
        ("lflf" + "ffll", "2*(l + f) + 2*f + 2*l"),
    ],
)
def test_the_shortest_layer_algebra(kinds, sentence):
    assert decoders.algebra(kinds) == sentence
    assert "".join(notation.layers(sentence, dict.fromkeys("lfn"), {}, "decoder")) == kinds


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LLAMA3 = {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "rope(theta=10000.0)"),
        ({"rope_theta": 500000}, "rope(theta=500000.0)"),
        ({"rope_parameters": {"rope_theta": 500.0}}, "rope(theta=500.0)"),
        ({"partial_rotary_factor": 0.5}, "rope(theta=10000.0, dims=32)"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope(theta=10000.0, scaling=linear(factor=2.0))"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope(theta=10000.0)"),
        ({"rope_scaling": YARN}, "yarn(factor=4.0, original_context=1024, fast=32.0, slow=1.0)"),
        ({"rope_scaling": {**YARN, "factor": None}}, "yarn(factor=2.0, original_context=1024"),
        ({"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}, "magnitude=1.0"),
        ({"rope_scaling": {**YARN, "mscale": 2.0, "mscale_all_dim": 0}}, "slow=1.0)"),
        (
            {"rope_scaling": {**YARN, "attention_factor": 1.5, "truncate": False}},
            "magnitude=1.5, rounded=False",
        ),
        (
            {"rope_scaling": LLAMA3},
            "by_parts(factor=4.0, low=1.0, high=4.0, original_context=1024)",
        ),
    ],
)
def test_rotary_positions(fields, sentence):
    found = rope(Fields(fields, "config.json"), context=2048, width=64, partial=1.0)
    assert sentence in found
    section = dict(vocab=8, d_model=64, context=2048, norm="rmsnorm(eps=1)", attention="mha(heads=1)", mlp="swiglu(d_ff=8)")
    section |= dict(blocks=dict(block="pre(attention, mlp)"), decoder="block", head="tied", initializer="normal(std=1)")
    attention = spec.model(dict(section, position=found)).block("block")["sublayers"][0]
    back = rope(Fields({"rope_parameters": rope_parameters(attention)}, "config.json"), context=2048, width=64, partial=1.0)
    assert back == found


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "'longrope'"),
        ({"rope_scaling": {"rope_type": "su"}}, "'su'"),
        ({"rope_parameters": {"mrope_section": [1, 2]}}, "mrope_section"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0}}, "low_freq_factor"),
    ],
)
def test_rotary_positions_that_there_are_none_of(fields, words):
    with pytest.raises(UserError, match=words):
        rope(Fields(fields, "config.json"), context=2048, width=64, partial=1.0)


def test_every_number_of_rotated_features_has_a_fraction():
    for width in range(2, 300):
        for dims in range(2, width + 1, 2):
            assert int(width * partial_factor(dims, width)) == dims
            assert math.isclose(partial_factor(dims, width), dims / width)


@pytest.mark.parametrize(
    ("model_type", "fields", "words"),
    [
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention", "half_attention"]}, "'half_attention'"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "no sliding_window is in use"),
        ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers: cannot be 2"),
        ("gemma2", {"sliding_window": None}, "no sliding_window is in use"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "rope_type"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "do not go together"),
        ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "do not go together"),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "'longrope'"),
        ("opt", {"layerdrop": 0.1}, "layerdrop=0.1"),
        ("opt", {"word_embed_proj_dim": 512, "tie_word_embeddings": False}, "word_embed_proj_dim=512"),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["local", "far"], 1]]}, "attention_types"),
        ("gpt_neo", {"num_layers": 2}, "attention_types"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm=True"),
    ],
)
def test_fields_that_do_not_fit(model_type, fields, words):
    with pytest.raises(UserError, match=words):
        engine.read_config({"model_type": model_type, "num_hidden_layers": 2, **fields})
