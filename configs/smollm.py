"""SmolLM: small LLaMAs with tied tables, deep for their width, on curated educational text."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, kv_heads, d_ff, initial std, peak rate, warmup steps, batch tokens, tokens, decay, published
SIZES = {
    "135m": (30, 576, 9, 3, 1536, 0.04167, 3e-3, 5000, 1_048_576, 600e9, "16.7%", 134.5e6),
    "360m": (32, 960, 15, 5, 2560, 0.03227, 3e-3, 5000, 1_048_576, 600e9, "16.7%", 361.8e6),
    "1.7b": (24, 2048, 32, 32, 8192, 0.0221, 5e-4, 2000, 2_097_152, 1e12, "20%", 1.71e9),
    "tiny": (2, 96, 6, 2, 256, 0.04, None, None, None, None, None, None),
}


def get_config(size="135m"):
    layers, d_model, heads, kv_heads, d_ff, std, peak, warmup, batch_tokens, tokens, decay, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 49152,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="rmsnorm(eps=1e-5)",
            position="rope(theta=10000)",
            attention=f"mha(heads={heads})" if kv_heads == heads else f"gqa(heads={heads}, kv_heads={kv_heads})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"normal(std={std})",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=batch_tokens,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01)",
            schedule=f"wsd(peak={peak}, warmup='{warmup} steps', decay='{decay}')",
        ),
        about=dict(
            paper="Allal et al. 2024, SmolLM",
            facts=f"smollm-{size}",
            published=published,
            sources=("huggingface/smollm text/pretraining/smollm1",),
            notes="The final decay followed one minus a square root; a line stands in.",
            verified_against="transformers.LlamaForCausalLM",
        ),
    )
