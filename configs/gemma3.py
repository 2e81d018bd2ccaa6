"""Gemma 3: five windowed layers to each full one, a larger rotary base in the full ones, norms on queries and keys."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, kv_heads, head_dim, d_ff, scale of the scores, window, vocab, context, tokens, published
SIZES = {
    "1b": ("4*(5*local + full) + 2*local", 1152, 4, 1, 256, 6912, "256**-0.5", 512, 262144, 32768, 2e12, 1e9),
    "4b": ("5*(5*local + full) + 4*local", 2560, 8, 4, 256, 10240, "256**-0.5", 1024, 262208, 131072, 4e12, 4.301e9),
    "12b": ("8*(5*local + full)", 3840, 16, 8, 256, 15360, "256**-0.5", 1024, 262208, 131072, 12e12, 12.188e9),
    "27b": (
        "10*(5*local + full) + 2*local",
        5376,
        32,
        16,
        128,
        21504,
        "(d_model/heads)**-0.5",
        1024,
        262208,
        131072,
        14e12,
        27.433e9,
    ),
    "tiny": ("2*local + full + local", 64, 4, 2, 32, 256, "(d_model/heads)**-0.5", 16, 512, 64, None, None),
}
SEEING = (
    "The text decoder only: the published size includes a vision encoder of 416,866,032 parameters and its projector. "
    "Trained at 32768 positions, then stretched."
)


def get_config(size="1b"):
    decoder, d_model, heads, kv_heads, head_dim, d_ff, scale, window, vocab, context, tokens, published = SIZES[size]
    tiny = size == "tiny"
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}, scale={scale}, qk_norm=norm"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6, unit_offset=True)",
            position="rope(theta=1e6)" if size == "1b" else "rope(theta=1e6, scaling=linear(factor=8))",
            embedding="table(scale=d_model**0.5)",
            attention=f"{attention}, position=rope(theta=1e4), mask=local(window={window}))",
            full_attention=f"{attention})",
            mlp=f"geglu(d_ff={d_ff}, approximate=True)",
            blocks=dict(local="sandwich(attention, mlp)", full="sandwich(full_attention, mlp)"),
            decoder=decoder,
            head="tied",
            initializer="fan_in(embedding_std=d_model**-0.5)",
        ),
        # Only the tokens are published; the targets were a larger model's predictions, not in this objective.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            context=32768,
            batch_tokens=128 * 32768,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Gemma Team 2025, arXiv:2503.19786",
            facts=f"gemma-3-{size}",
            published=published,
            sources=("google/gemma_pytorch gemma/config.py", "arXiv:2503.19786, Table 1"),
            unsure=("training", "initializer"),
            notes="" if size in ("1b", "tiny") else SEEING,
            verified_against="transformers.Gemma3ForCausalLM",
        ),
    )
