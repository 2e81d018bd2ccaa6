"""Gemma 2: Gemma with norms on both sides of each sublayer, soft-capped scores, and a window in every other layer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, head_dim, d_ff, scale of the scores, tokens, published
    "2b": (26, 2304, 8, 4, 256, 9216, "256**-0.5", 2e12, 2614636800.0),
    "9b": (42, 3584, 16, 8, 256, 14336, "256**-0.5", 8e12, 9242164736.0),
    "27b": (46, 4608, 32, 16, 128, 36864, "(d_model/heads)**-0.5", 13e12, 27227718656.0),
    "tiny": (4, 64, 4, 2, 32, 256, "(d_model/heads)**-0.5", None, None),
}


def get_config(size="2b"):
    layers, d_model, heads, kv_heads, head_dim, d_ff, scale, tokens, published = SIZES[size]
    tiny = size == "tiny"
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}, scale={scale}, softcap=50.0"
    return experiment(
        model=dict(
            vocab=512 if tiny else 256000,
            d_model=d_model,
            context=64 if tiny else 8192,
            norm="rmsnorm(eps=1e-6, unit_offset=True)",
            position="rope",
            embedding="table(scale=d_model**0.5)",
            attention=f"{attention}, mask=local(window={24 if tiny else 4096}))",
            full_attention=f"{attention})",
            mlp=f"geglu(d_ff={d_ff}, approximate=True)",
            blocks=dict(local="sandwich(attention, mlp)", full="sandwich(full_attention, mlp)"),
            decoder=f"{layers // 2}*(local + full)",
            head="tied(softcap=30.0)",
            initializer="fan_in(embedding_std=d_model**-0.5)",
        ),
        # Only the tokens are published.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Gemma Team 2024, arXiv:2408.00118",
            facts=f"gemma-2-{size}",
            published=published,
            sources=("google/gemma_pytorch gemma/config.py", "arXiv:2408.00118, Tables 1 and 2"),
            unsure=("training", "initializer"),
            notes="The published count has 128 more rows of the table. "
            + ("Trained from scratch." if size == "27b" else "Trained on a larger model's predictions, not in this objective."),
            verified_against="transformers.Gemma2ForCausalLM",
        ),
    )
