"""GPT-NeoX: the table against transformers."""

from . import common

CASES = {
    "parallel, a quarter rotated": dict(
        vocab_size=97,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=64,
        max_position_embeddings=80,
    ),
    "sequential, no biases, tied, linear scaling": dict(
        vocab_size=101,
        hidden_size=40,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=56,
        max_position_embeddings=72,
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=True,
        hidden_act="gelu_new",
        layer_norm_eps=1e-2,
        rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=100.0, partial_rotary_factor=0.75),
    ),
    "whole heads rotated, dynamic scaling": dict(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        hidden_dropout=0.125,
        rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=500.0, partial_rotary_factor=1.0),
    ),
}
pair = common.pairs("gpt_neox", CASES)


class TestGPTNeoX(common.Parity):
    pass
