"""Mistral: the table against transformers."""

from . import common

CASES = {
    "window, groups, tied": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        sliding_window=16,
        tie_word_embeddings=True,
        attention_dropout=0.125,
    ),
    "no window, own head_dim": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=10,
        sliding_window=None,
        rms_norm_eps=0.01,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
    "window of two tokens, linear scaling": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        sliding_window=2,
        hidden_act="gelu",
        rope_parameters=dict(
            rope_type="linear",
            factor=4.0,
            rope_theta=100.0,
        ),
    ),
}
pair = common.pairs("mistral", CASES)


class TestMistral(common.Parity):
    pass
