"""Nemotron: the table against transformers."""

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
        num_key_value_heads=3,
    ),
    "groups, biases, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        norm_eps=0.01,
    ),
    "one head of keys, own head_dim, whole heads rotated": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=10,
        hidden_act="gelu",
        attention_dropout=0.125,
        rope_parameters=dict(
            rope_type="default",
            rope_theta=500.0,
            partial_rotary_factor=1.0,
        ),
    ),
}
pair = common.pairs("nemotron", CASES)


class TestNemotron(common.Parity):
    pass
