"""Persimmon: the table against transformers."""

from . import common

CASES = {
    "half of every head rotated": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
    ),
    "no norms of queries and keys, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=40,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=5,
        max_position_embeddings=80,
        qk_layernorm=False,
        tie_word_embeddings=True,
        layer_norm_eps=0.01,
        attention_dropout=0.125,
    ),
    "whole heads rotated, dynamic scaling": dict(
        pad_token_id=None,
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        hidden_act="gelu",
        rope_parameters=dict(
            rope_type="dynamic",
            factor=2.0,
            rope_theta=500.0,
            partial_rotary_factor=1.0,
        ),
    ),
}
pair = common.pairs("persimmon", CASES)


class TestPersimmon(common.Parity):
    pass
