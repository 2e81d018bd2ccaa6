"""Phi 3: the table against transformers."""

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
    ),
    "groups, window, tied": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=80,
        num_key_value_heads=2,
        sliding_window=16,
        tie_word_embeddings=True,
        rms_norm_eps=0.01,
    ),
    "one head of keys, partly rotated": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        num_key_value_heads=1,
        hidden_act="gelu",
        resid_pdrop=0.125,
        attention_dropout=0.5,
        rope_parameters=dict(
            rope_type="default",
            rope_theta=500.0,
            partial_rotary_factor=0.75,
        ),
    ),
}
pair = common.pairs("phi3", CASES)


class TestPhi3(common.Parity):
    pass
