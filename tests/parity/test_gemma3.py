"""Gemma 3: the table against transformers."""

from . import common

CASES = {
    "five with windows in six": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=8,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        head_dim=8,
        sliding_window=16,
        query_pre_attn_scalar=8,
    ),
    "linear scaling in full layers, untied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        head_dim=12,
        sliding_window=9,
        query_pre_attn_scalar=24,
        layer_types=["full_attention", "sliding_attention"],
        tie_word_embeddings=False,
        rms_norm_eps=0.01,
        rope_parameters=dict(
            full_attention=dict(
                rope_type="linear",
                factor=8.0,
                rope_theta=500.0,
            ),
            sliding_attention=dict(rope_type="default", rope_theta=50.0),
        ),
    ),
    "one head of keys, capped logits, no windows": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=10,
        query_pre_attn_scalar=10,
        layer_types=["full_attention", "full_attention"],
        final_logit_softcapping=3.0,
        attention_bias=True,
    ),
}
pair = common.pairs("gemma3_text", CASES)


class TestGemma3(common.Parity):
    pass
