"""Command R: the table against transformers."""

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
        logit_scale=0.5,
    ),
    "groups, norms of queries and keys, other scale": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        use_qk_norm=True,
        logit_scale=0.25,
        layer_norm_eps=0.01,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
    "one head of keys, biases, untied": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        attention_bias=True,
        tie_word_embeddings=False,
        logit_scale=1.0,
        attention_dropout=0.125,
    ),
}
pair = common.pairs("cohere", CASES)


class TestCohere(common.Parity):
    pass
