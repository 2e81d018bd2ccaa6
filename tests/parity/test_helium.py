"""Helium: the table against transformers."""

from . import common

CASES = {
    "no biases": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        head_dim=8,
    ),
    "groups, biases, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        head_dim=12,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rms_norm_eps=0.01,
    ),
    "one head of keys, other theta": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=8,
        hidden_act="gelu_pytorch_tanh",
        attention_dropout=0.125,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
}
pair = common.pairs("helium", CASES)


class TestHelium(common.Parity):
    pass
