"""Gemma: heads of 256 features, GEGLU eight times as wide as the stream, norms around one, embeddings times sqrt(d_model)."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, head_dim, d_ff, tokens, published
    "2b": (18, 2048, 8, 1, 256, 16384, 3e12, 2506434560.0),
    "7b": (28, 3072, 16, 16, 256, 24576, 6e12, 8538074112.0),
    "tiny": (2, 64, 4, 1, 32, 512, None, None),
}


def get_config(size="2b"):
    layers, d_model, heads, kv_heads, head_dim, d_ff, tokens, published = SIZES[size]
    tiny = size == "tiny"
    attention = "mqa" if kv_heads == 1 else "mha"
    return experiment(
        model=dict(
            vocab=512 if tiny else 256000,
            d_model=d_model,
            context=64 if tiny else 8192,
            norm="rmsnorm(eps=1e-6, unit_offset=True)",
            position="rope",
            embedding="table(scale=d_model**0.5)",
            attention=f"{attention}(heads={heads}, head_dim={head_dim})",
            mlp=f"geglu(d_ff={d_ff}, approximate=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
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
            paper="Gemma Team 2024, arXiv:2403.08295",
            facts=f"gemma-{size}",
            published=published,
            sources=("google/gemma_pytorch gemma/config.py", "arXiv:2403.08295, Tables 1 and 2"),
            unsure=("training", "initializer"),
            notes="The published count has a table padded to 256128 rows, 128 more than the released one; the paper's feed-forward "
            "width counts both halves.",
            verified_against="transformers.GemmaForCausalLM",
        ),
    )
