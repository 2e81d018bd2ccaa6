"""Qwen2.5: a LLaMA with grouped keys and biases on queries, keys and values; tables are tied up to 3B."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, d_ff, vocab, context, norm eps, published
    "0.5b": (24, 896, 14, 2, 4864, 151936, 32768, 1e-6, 0.49e9),
    "1.5b": (28, 1536, 12, 2, 8960, 151936, 32768, 1e-6, 1.54e9),
    "3b": (36, 2048, 16, 2, 11008, 151936, 32768, 1e-6, 3.09e9),
    "7b": (28, 3584, 28, 4, 18944, 152064, 131072, 1e-6, 7.61e9),
    "14b": (48, 5120, 40, 8, 13824, 152064, 131072, 1e-5, 14.7e9),
    "32b": (64, 5120, 40, 8, 27648, 152064, 131072, 1e-5, 32.5e9),
    "72b": (80, 8192, 64, 8, 29568, 152064, 131072, 1e-5, 72.7e9),
    "tiny": (2, 64, 4, 2, 192, 512, 64, 1e-6, None),
}
TIED = ("0.5b", "1.5b", "3b", "tiny")


def get_config(size="0.5b"):
    layers, d_model, heads, kv_heads, d_ff, vocab, context, eps, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm=f"rmsnorm(eps={eps})",
            position="rope(theta=1e6)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads}, bias=True, out_bias=False)",
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
            tokens=18e12,
            context=4096,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Qwen Team 2024, arXiv:2412.15115",
            facts=f"qwen2.5-{size}",
            published=published,
            sources=("arXiv:2412.15115, Table 1", "transformers configurations of the released checkpoints"),
            unsure=("optimizer", "schedule", "batch_tokens", "initializer"),
            notes="From 7B on, 131072 positions need YaRN and dual chunk attention when used.",
            verified_against="transformers.Qwen2ForCausalLM",
        ),
    )
