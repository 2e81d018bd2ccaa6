"""Gemma: the table against transformers."""

from . import common

CASES = {
    "as many heads of keys": dict(
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
    "one head of keys, own head_dim, untied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=False,
        rms_norm_eps=0.01,
    ),
    "groups, biases, its own gelu": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        head_dim=12,
        attention_bias=True,
        hidden_act="gelu",
        attention_dropout=0.125,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
}
pair = common.pairs("gemma", CASES)


class TestGemma(common.Parity):
    pass
