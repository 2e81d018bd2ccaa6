"""Command R: parallel blocks with SwiGLU, no biases, and a scaled tied head; the larger one has grouped keys and norms per head."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, d_ff, rope theta, scale of the logits, published
    "35b": (40, 8192, 64, 64, 22528, 8e6, "1/16", 35e9),
    "plus-104b": (64, 12288, 96, 8, 33792, 75e6, "5/6", 104e9),
    "tiny": (2, 64, 4, 2, 176, 1e4, "5/6", None),
}


def get_config(size="35b"):
    layers, d_model, heads, kv_heads, d_ff, theta, scale, published = SIZES[size]
    tiny = size == "tiny"
    grouped = f"gqa(heads={heads}, kv_heads={kv_heads}, qk_norm=norm, qk_norm_per_head=True)"
    return experiment(
        model=dict(
            vocab=512 if tiny else 256000,
            d_model=d_model,
            context=64 if tiny else 131072,
            norm="layernorm(eps=1e-5, bias=False)",
            position=f"rope(theta={theta:.0f}, interleaved=True)",
            attention=f"mha(heads={heads})" if kv_heads == heads else grouped,
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="parallel(attention, mlp)"),
            decoder=f"{layers}*block",
            head=f"tied(scale={scale})",
            initializer="normal(std=0.02)",
        ),
        # Nothing about the training is published; the numbers are placeholders.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=1e12,
            context=8192,
            batch_tokens=512 * 8192,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=1e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Cohere 2024, Command R",
            facts=f"command-r-{size}",
            published=published,
            sources=("transformers cohere and the released configurations",),
            unsure=("training", "initializer"),
            notes="The released files say 8192 positions; 131072 are supported.",
            verified_against="transformers.CohereForCausalLM",
        ),
    )
