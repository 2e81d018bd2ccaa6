"""gpt-oss: the table against transformers."""

from . import common

CASES = {
    "two experts of six, windows, groups": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=80,
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=16,
        # So narrow that they clamp.
        swiglu_limit=0.7,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=500.0,
            factor=8.0,
            beta_fast=16.0,
            beta_slow=1.0,
            truncate=False,
            original_max_position_embeddings=20,
        ),
    ),
    "two experts of four, no windows, no biases of attention, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=80,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["full_attention"] * 2,
        attention_bias=False,
        attention_dropout=0.125,
        tie_word_embeddings=True,
        swiglu_alpha=0.9,
        rms_norm_eps=0.01,
        rope_parameters=dict(rope_type="default", rope_theta=100.0),
    ),
}
pair = common.pairs("gpt_oss", CASES)


class TestGptOss(common.SparseParity):
    pass
