"""StarCoder 2: the table against transformers."""

from . import common

CASES = {
    "groups": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
    ),
    "window, no biases, untied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        sliding_window=16,
        use_bias=False,
        tie_word_embeddings=False,
        norm_epsilon=0.01,
    ),
    "as many heads of keys": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        hidden_act="relu",
        residual_dropout=0.125,
        embedding_dropout=0.25,
        attention_dropout=0.5,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
}
pair = common.pairs("starcoder2", CASES)


class TestStarcoder2(common.Parity):
    pass
