"""DeepSeek-V2: the table against transformers."""

from . import common

SHAPE = dict(
    pad_token_id=None,
    vocab_size=97,
    hidden_size=32,
    intermediate_size=40,
    moe_intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=80,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    n_routed_experts=8,
    num_experts_per_tok=3,
)
CASES = {
    "experts in groups after a dense layer, yarn": dict(
        **SHAPE,
        first_k_dense_replace=1,
        q_lora_rank=8,
        rms_norm_eps=1e-2,
        attention_dropout=0.125,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        n_shared_experts=2,
        routed_scaling_factor=2.5,
        rope_parameters=dict(
            rope_type="yarn",
            rope_theta=100.0,
            factor=4.0,
            original_max_position_embeddings=20,
            mscale=1.5,
            mscale_all_dim=0.707,
        ),
    ),
    "experts of any group, plain queries, tied": dict(
        **SHAPE,
        q_lora_rank=None,
        n_group=4,
        topk_group=2,
        n_shared_experts=1,
        tie_word_embeddings=True,
    ),
}
pair = common.pairs("deepseek_v2", CASES)


class TestDeepseekV2(common.Parity):
    pass
