"""StableLM: the table against transformers."""

from . import common

CASES = {
    "a quarter of every head rotated": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
    ),
    "norms of every head, groups, biases, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=40,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        qk_layernorm=True,
        use_qkv_bias=True,
        tie_word_embeddings=True,
        layer_norm_eps=0.01,
        rope_parameters=dict(
            rope_type="default",
            rope_theta=100.0,
            partial_rotary_factor=0.4,
        ),
    ),
    "parallel, whole heads rotated": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        use_parallel_residual=True,
        attention_dropout=0.125,
        rope_parameters=dict(
            rope_type="linear",
            factor=4.0,
            rope_theta=500.0,
            partial_rotary_factor=1.0,
        ),
    ),
}
pair = common.pairs("stablelm", CASES)


class TestStableLM(common.Parity):
    pass
