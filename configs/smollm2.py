"""SmolLM2: SmolLM trained on up to eleven trillion tokens, then stretched to 8192 positions."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, kv_heads, d_ff, rope theta, initial std, peak rate, batch tokens, steps, decay, published
SIZES = {
    "135m": (30, 576, 9, 3, 1536, 1e5, 0.04167, 3e-3, 1_048_576, 2_000_000, "400000 steps", 134.5e6),
    "360m": (32, 960, 15, 5, 2560, 1e5, 0.03227, 3e-3, 1_572_864, 2_600_000, "520000 steps", 361.8e6),
    "1.7b": (24, 2048, 32, 32, 8192, 1.3e5, 0.0221, 5e-4, 2_097_152, 5_240_000, "524000 steps", 1.71e9),
    "tiny": (2, 96, 6, 2, 256, 1e4, 0.04, None, None, None, None, None),
}


def get_config(size="135m"):
    layers, d_model, heads, kv_heads, d_ff, theta, std, peak, batch_tokens, steps, decay, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 49152,
            d_model=d_model,
            context=64 if tiny else 8192,
            norm="rmsnorm(eps=1e-5)",
            position=f"rope(theta={theta:.0f})",
            attention=f"mha(heads={heads})" if kv_heads == heads else f"gqa(heads={heads}, kv_heads={kv_heads})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"normal(std={std})",
        ),
        # Documents of 2048 tokens and theta 1e4 in this run; the larger theta came with the longer context.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=steps,
            context=2048,
            batch_tokens=batch_tokens,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01)",
            schedule=f"wsd(peak={peak}, warmup='2000 steps', decay='{decay}')",
        ),
        about=dict(
            paper="Allal et al. 2025, arXiv:2502.02737",
            facts=f"smollm2-{size}",
            published=published,
            sources=("huggingface/smollm text/pretraining/smollm2", "arXiv:2502.02737"),
            unsure=("initializer",),
            verified_against="transformers.LlamaForCausalLM",
        ),
    )
