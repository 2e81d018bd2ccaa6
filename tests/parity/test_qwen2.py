"""Qwen 2: the table against transformers."""

from . import common

CASES = {
    "no windows, groups": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
    ),
    "windows in later layers, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=1,
        tie_word_embeddings=True,
        rms_norm_eps=0.01,
    ),
    "listed windows, yarn": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        use_sliding_window=True,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            factor=4.0,
            original_max_position_embeddings=20,
        ),
    ),
    "windows everywhere": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        use_sliding_window=True,
        sliding_window=16,
        max_window_layers=0,
        attention_dropout=0.125,
    ),
}
pair = common.pairs("qwen2", CASES)


class TestQwen2(common.Parity):
    pass
