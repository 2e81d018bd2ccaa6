"""DeepSeek-V3: the table against transformers."""

import torch

from . import common

SHAPE = dict(
    pad_token_id=None,
    vocab_size=97,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=80,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
)
EXPERTS = dict(moe_intermediate_size=12, n_routed_experts=8, num_experts_per_tok=3)
CASES = {
    "dense, compressed queries, yarn": dict(
        **SHAPE,
        first_k_dense_replace=2,
        q_lora_rank=8,
        rms_norm_eps=1e-2,
        attention_dropout=0.125,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            factor=4.0,
            original_max_position_embeddings=20,
            mscale=1.5,
            mscale_all_dim=0.707,
        ),
    ),
    "experts in groups after a dense layer": dict(
        **SHAPE,
        **EXPERTS,
        first_k_dense_replace=1,
        q_lora_rank=8,
        n_group=4,
        topk_group=2,
        n_shared_experts=2,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            factor=4.0,
            original_max_position_embeddings=20,
            mscale=1.0,
            mscale_all_dim=1.0,
        ),
    ),
    "experts alone, not renormalised": dict(
        **SHAPE,
        **EXPERTS,
        first_k_dense_replace=0,
        q_lora_rank=None,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        norm_topk_prob=False,
        routed_scaling_factor=1.5,
    ),
    "dense, plain": dict(**SHAPE, first_k_dense_replace=2, q_lora_rank=None, rope_interleave=False, tie_word_embeddings=True),
}


def biased(theirs) -> None:
    """Biases of the choice, which are no parameters, large enough to change it."""
    for name, value in theirs.named_buffers():
        if name.endswith("e_score_correction_bias"):
            value.copy_(0.3 * torch.randn_like(value))


pair = common.pairs("deepseek_v3", CASES, change=biased)


class TestDeepseekV3(common.Parity):
    pass
