"""Qwen 3: the table against transformers."""

from . import common

CASES = {
    "groups, own head_dim": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        head_dim=12,
    ),
    "biases, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=8,
        attention_bias=True,
        tie_word_embeddings=True,
        rms_norm_eps=0.01,
    ),
    "windows in later layers, yarn of its own magnitude": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        head_dim=16,
        use_sliding_window=True,
        sliding_window=16,
        max_window_layers=1,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            factor=4.0,
            original_max_position_embeddings=20,
            attention_factor=1.25,
            beta_fast=8.0,
            beta_slow=0.5,
            truncate=False,
        ),
    ),
}
pair = common.pairs("qwen3", CASES)


class TestQwen3(common.Parity):
    pass
