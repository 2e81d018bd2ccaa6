"""Command R7B: the table against transformers."""

from . import common

CASES = {
    "windows in three of four": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=5,
        num_attention_heads=3,
        max_position_embeddings=80,
        sliding_window=16,
        logit_scale=0.5,
    ),
    "groups, listed, untied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        sliding_window=7,
        logit_scale=1.0,
        layer_types=["full_attention", "sliding_attention"],
        tie_word_embeddings=False,
        layer_norm_eps=0.01,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
    "one head of keys, biases, all windows": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        sliding_window=9,
        logit_scale=0.25,
        layer_types=["sliding_attention", "sliding_attention"],
        attention_bias=True,
        attention_dropout=0.125,
    ),
}
pair = common.pairs("cohere2", CASES)


class TestCohere2(common.Parity):
    pass
