"""Kimi K2: DeepSeek-V3 with more experts, half as many heads and no groups, trained with Muon."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"1t": "deepseek_v3:671b", "tiny": "deepseek_v3:tiny"}
ROUTER = "sigmoid(renormalize=True, scale=2.827, bias_rate=0.001, balance=1e-4)"
# heads, widths, stretch, experts, top_k, d_ff_expert, sparse layers, vocab
SHAPES = {
    "1t": (64, "head_dim=128, rotary_dim=64, kv_rank=512, query_rank=1536", (32, 4096), 384, 8, 2048, 60, 163840),
    "tiny": (2, "head_dim=12, rotary_dim=8, kv_rank=32, query_rank=24", (4, 16), 12, 3, 32, 2, 512),
}


def get_config(size="1t"):
    heads, widths, (factor, original), experts, top_k, d_ff_expert, sparse, vocab = SHAPES[size]
    tiny = size == "tiny"
    scaling = f"yarn(factor={factor}, original_context={original}, fast=1, slow=1, magnitude=1, sharpening=1)"
    expert = f"swiglu(d_ff={d_ff_expert})"
    return derived(
        SIZES[size],
        model=dict(
            vocab=vocab,
            position=f"rope(theta=50000, interleaved=True, scaling={scaling})",
            attention=f"latent(heads={heads}, {widths})",
            moe=f"moe(experts={experts}, top_k={top_k}, router={ROUTER}, expert={expert}, shared={expert})",
            decoder=f"dense + {sparse}*sparse",
            ahead=None,
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=15.5e12,
            context=4096,
            batch_tokens=16384 * 4096,
            optimizer="muon(weight_decay=0.1)",
            schedule="stages(peak=2e-4, warmup='500 steps', later='1 by 10e12 tokens, 0.1 by 15.5e12 tokens')",
        ),
        about=dict(
            paper="Kimi Team 2025, arXiv:2507.20534",
            facts=f"kimi-k2-{size}",
            published=None if tiny else 1.04e12,
            sources=("arXiv:2507.20534, sections 2.1 to 2.5", "configuration of the released checkpoint"),
            unsure=("balance", "clip", "initializer"),
            notes="The published numbers give 1.026e12 weights. The clipping of queries and keys whose products are above 100 "
            "(QK-clip) is left out, as are 460e9 last tokens at smaller rates, 60e9 of them at a context of 32768.",
            verified_against="transformers.DeepseekV3ForCausalLM",
        ),
    )
