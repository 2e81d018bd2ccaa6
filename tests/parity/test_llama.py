"""LLaMA: the table against transformers."""

from . import common

SCALING = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
CASES = {
    "one head of keys each": dict(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, max_position_embeddings=80
    ),
    "grouped, scaled rope, own head_dim": dict(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        rms_norm_eps=1e-2,
        max_position_embeddings=80,
        rope_parameters=SCALING,
        hidden_act="gelu_pytorch_tanh",
    ),
    "one key-value head, tied, biases": dict(
        vocab_size=131,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=80,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        attention_dropout=0.125,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
}
pair = common.pairs("llama", CASES)


class TestLlama(common.Parity):
    pass
