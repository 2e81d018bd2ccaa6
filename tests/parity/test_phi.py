"""Phi: the table against transformers."""

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
    "norms of queries and keys, groups, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=40,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        qk_layernorm=True,
        tie_word_embeddings=True,
        layer_norm_eps=0.01,
        rope_parameters=dict(
            rope_type="default",
            rope_theta=100.0,
            partial_rotary_factor=0.4,
        ),
    ),
    "whole heads rotated, linear scaling": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        hidden_act="relu",
        resid_pdrop=0.125,
        embd_pdrop=0.25,
        attention_dropout=0.5,
        rope_parameters=dict(
            rope_type="linear",
            factor=4.0,
            rope_theta=500.0,
            partial_rotary_factor=1.0,
        ),
    ),
}
pair = common.pairs("phi", CASES)


class TestPhi(common.Parity):
    pass
