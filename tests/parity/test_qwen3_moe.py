"""Qwen 3 with experts: the table against transformers."""

from . import common

SHAPE = dict(
    pad_token_id=None,
    vocab_size=97,
    hidden_size=32,
    intermediate_size=40,
    moe_intermediate_size=12,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=80,
)
CASES = {
    "three of eight experts, renormalised, own head_dim": dict(
        **SHAPE, num_hidden_layers=2, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True, head_dim=12
    ),
    "every second layer but one dense, window, biases, tied": dict(
        **SHAPE,
        num_hidden_layers=4,
        num_experts=6,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
        router_aux_loss_coef=0.0,
        use_sliding_window=True,
        sliding_window=16,
        attention_bias=True,
        tie_word_embeddings=True,
        hidden_act="gelu",
        rms_norm_eps=0.01,
        rope_parameters=dict(rope_type="default", rope_theta=100.0),
    ),
}
pair = common.pairs("qwen3_moe", CASES)


class TestQwen3MoE(common.SparseParity):
    pass
