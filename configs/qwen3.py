"""Qwen3: Qwen2.5 without biases, with norms on queries and keys."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, head_dim, d_ff, vocab, context, published
    "0.6b": (28, 1024, 16, 8, 128, 3072, 151936, 32768, 0.6e9),
    "1.7b": (28, 2048, 16, 8, 128, 6144, 151936, 32768, 1.7e9),
    "4b": (36, 2560, 32, 8, 128, 9728, 151936, 131072, 4e9),
    "8b": (36, 4096, 32, 8, 128, 12288, 151936, 131072, 8.2e9),
    "14b": (40, 5120, 40, 8, 128, 17408, 151936, 131072, 14.8e9),
    "32b": (64, 5120, 64, 8, 128, 25600, 151936, 131072, 32.8e9),
    "tiny": (2, 64, 4, 2, 32, 192, 512, 64, None),
}
TIED = ("0.6b", "1.7b", "4b", "tiny")


def get_config(size="0.6b"):
    layers, d_model, heads, kv_heads, head_dim, d_ff, vocab, context, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6)",
            position="rope(theta=1e6)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}, qk_norm=norm)",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied" if size in TIED else "untied",
            initializer="normal(std=0.02)",
        ),
        # The length and the tokens are published, with theta 1e4 until the stage at 32768; the rest stands in.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=36e12,
            context=4096,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Qwen Team 2025, arXiv:2505.09388",
            facts=f"qwen3-{size}",
            published=published,
            sources=("arXiv:2505.09388, Table 1", "transformers configurations of the released checkpoints"),
            unsure=("optimizer", "schedule", "batch_tokens", "initializer"),
            notes="From 4B on, 131072 positions need YaRN by a factor of 4 when used; the native window is 32768.",
            verified_against="transformers.Qwen3ForCausalLM",
        ),
    )
