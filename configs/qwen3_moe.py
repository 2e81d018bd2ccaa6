"""Qwen3 MoE: Qwen3 with 128 narrow experts in every layer, of which a token uses eight."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, head_dim, d_ff, experts, top_k, vocab, context, published
    "30b-a3b": (48, 2048, 32, 4, 128, 768, 128, 8, 151936, 131072, 30.5e9),
    "235b-a22b": (94, 4096, 64, 4, 128, 1536, 128, 8, 151936, 131072, 235e9),
    "tiny": (2, 64, 4, 2, 32, 48, 8, 3, 512, 64, None),
}


def get_config(size="30b-a3b"):
    layers, d_model, heads, kv_heads, head_dim, d_ff, experts, top_k, vocab, context, published = SIZES[size]
    router = "softmax(renormalize=True, balance=0.001*top_k/layers)"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6)",
            position="rope(theta=1e6)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}, qk_norm=norm)",
            moe=f"moe(experts={experts}, top_k={top_k}, router={router}, expert=swiglu(d_ff={d_ff}))",
            blocks=dict(block="pre(attention, moe)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # The length and the tokens are published, with theta 1e4 until the stage at 32768; the rest stands in.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=36e12,
            context=4096,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Qwen Team 2025, arXiv:2505.09388",
            facts=f"qwen3-{size}" if size != "tiny" else "qwen3-moe-tiny",
            published=published,
            sources=("arXiv:2505.09388, Table 2", "transformers configurations of the released checkpoints"),
            unsure=("optimizer", "schedule", "batch_tokens", "initializer", "balance: of the released configurations"),
            notes="Loads are balanced over global batches there, over rows here. 131072 positions need YaRN by a factor of 4 when "
            "used; the native window is 32768.",
            verified_against="transformers.Qwen3MoeForCausalLM",
        ),
    )
