"""AlphaCode: a short encoder for the problem and a long decoder for the program, with few heads of keys and values."""

from taxonomy.config import TINY_TRAINING, experiment

# encoder layers, decoder layers, d_model, heads, kv_heads, batch in sequences, steps, second Adam moment, published
SIZES = {
    "300m": (4, 24, 768, 6, 1, 256, 600_000, 0.999, 284e6),
    "1b": (5, 30, 1408, 11, 1, 256, 1_000_000, 0.999, 1.1e9),
    "3b": (6, 36, 2048, 16, 1, 512, 700_000, 0.999, 2.8e9),
    "9b": (8, 48, 3072, 24, 4, 1024, 530_000, 0.95, 8.7e9),
    "41b": (8, 56, 6144, 48, 16, 2048, 205_000, 0.95, 41.1e9),
    "tiny": (1, 3, 64, 4, 1, None, None, None, None),
}


def get_config(size="300m"):
    encoder, decoder, d_model, heads, kv_heads, batch, steps, b2, published = SIZES[size]
    tiny = size == "tiny"
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={16 if tiny else 128}"
    return experiment(
        model=dict(
            vocab=512 if tiny else 8000,
            d_model=d_model,
            context=32 if tiny else 768,
            inputs=64 if tiny else 1536,
            norm="rmsnorm(eps=1e-6)",
            position="sinusoidal",
            attention=f"{attention})",
            encoder_attention=f"{attention}, mask=full)",
            cross_attention=f"{attention}, mask=full, source='encoder')",
            mlp="gelu(d_ff=6*d_model)",
            blocks=dict(reading="pre(encoder_attention, mlp)", writing="pre(attention, cross_attention, mlp)"),
            encoder=f"{encoder}*reading",
            decoder=f"{decoder}*writing",
            head="untied",
            initializer="fan_in(embedding_std=0.02)",
        ),
        train=dict(TINY_TRAINING, objective="random_pivot")
        if tiny
        else dict(
            objective="random_pivot",
            steps=steps,
            batch_tokens=batch * 768,
            optimizer=f"adamw(b1=0.9, b2={b2}, weight_decay=0.1)",
            schedule="cosine(peak=1e-4, warmup='1000 steps', final=0.1)",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Li et al. 2022, arXiv:2203.07814",
            facts=f"alphacode-{size}",
            published=published,
            sources=("arXiv:2203.07814, Table 3 and sections 4.1 to 4.3",),
            unsure=("position", "norm", "activation", "bias", "tied embeddings"),
            notes="Fine-tuning: train.loss='gold', or 'cross_entropy(temperature=0.2)' for tempering alone. "
            "The value head is not here.",
        ),
    )
