"""Gemma 2: the table against transformers."""

from . import common

CASES = {
    "windows in turn, caps": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=3,
        head_dim=8,
        sliding_window=16,
        query_pre_attn_scalar=8,
    ),
    "no caps, own scale, untied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        num_key_value_heads=2,
        head_dim=12,
        sliding_window=9,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
        rms_norm_eps=0.01,
        attention_bias=True,
    ),
    "one head of keys, strong caps, no windows": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        head_dim=10,
        query_pre_attn_scalar=7,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0,
        layer_types=["full_attention", "full_attention"],
        attention_dropout=0.125,
    ),
}
pair = common.pairs("gemma2", CASES)


class TestGemma2(common.Parity):
    pass
