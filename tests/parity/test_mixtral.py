"""Mixtral: the table against transformers."""

from . import common

SHAPE = dict(
    pad_token_id=None,
    vocab_size=97,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=80,
)
CASES = {
    "two of five experts, own balance loss": dict(**SHAPE, num_local_experts=5, router_aux_loss_coef=0.02),
    "three of eight, window, own head_dim, tied": dict(
        SHAPE,
        num_key_value_heads=1,
        head_dim=10,
        num_local_experts=8,
        num_experts_per_tok=3,
        sliding_window=16,
        tie_word_embeddings=True,
        rms_norm_eps=0.01,
        hidden_act="gelu",
        router_aux_loss_coef=0.0,
        rope_parameters=dict(rope_type="default", rope_theta=100.0),
    ),
}
pair = common.pairs("mixtral", CASES)


class TestMixtral(common.SparseParity):
    pass
