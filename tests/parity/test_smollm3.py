"""SmolLM 3: the table against transformers."""

from . import common

CASES = {
    "every fourth layer without positions": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
    ),
    "listed, untied, biases": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        no_rope_layers=[0, 1, 1],
        tie_word_embeddings=False,
        attention_bias=True,
        mlp_bias=True,
        rms_norm_eps=0.01,
    ),
    "windows without positions": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        no_rope_layer_interval=2,
        use_sliding_window=True,
        sliding_window=16,
        attention_dropout=0.125,
    ),
    "all four kinds": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        no_rope_layers=[1, 0, 1, 0],
        use_sliding_window=True,
        sliding_window=7,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "full_attention"],
        rope_parameters=dict(
            rope_type="linear",
            factor=2.0,
            rope_theta=100.0,
        ),
    ),
}
pair = common.pairs("smollm3", CASES)


class TestSmolLM3(common.Parity):
    pass
