"""Llama 4, its text decoder: the table against transformers."""

from . import common

CASES = {
    "every layer sparse, one expert of four": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=20,
        intermediate_size_mlp=40,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=80,
        num_local_experts=4,
        attention_chunk_size=16,
        floor_scale=8,
        attn_scale=0.3,
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=500.0,
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=1.0,
            original_max_position_embeddings=16,
        ),
    ),
    "dense layers between, two experts of five, plain queries": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=24,
        intermediate_size=16,
        intermediate_size_mlp=40,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=80,
        num_local_experts=5,
        num_experts_per_tok=2,
        interleave_moe_layer_step=2,
        attention_chunk_size=7,
        use_qk_norm=False,
        attn_temperature_tuning=False,
        attention_bias=True,
        rms_norm_eps=0.01,
    ),
    "all kinds of layers": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=16,
        intermediate_size_mlp=20,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=8,
        max_position_embeddings=80,
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_layers=[0, 3],
        no_rope_layers=[1, 0, 1, 0],
        layer_types=["chunked_attention", "chunked_attention", "full_attention", "full_attention"],
        attention_chunk_size=33,
        attention_dropout=0.125,
        tie_word_embeddings=True,
    ),
}


def alike(theirs):
    """Tokens that have much in common, so that they go to the same experts."""
    theirs.model.embed_tokens.weight.add_(0.3)


pair = common.pairs("llama4_text", CASES, change=alike)


class TestLlama4(common.SparseParity):
    pass
