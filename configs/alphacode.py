"""AlphaCode: a short encoder for the problem and a long decoder for the program, with few heads of keys and values."""

from taxonomy.config import TINY_TRAINING, experiment

# encoder layers, decoder layers, d_model, heads, kv_heads, batch in sequences, steps, second Adam moment, published
SIZES = {
    "300m": (4, 24, 768, 6, 1, 256, 600_000, 0.999, 284e6),
    "1b": (5, 30, 1408, 11, 1, 256, 1_000_000, 0.999, 1.1e9),
    "3b": (6, 36, 2048, 16, 1, 512, 700_000, 0.999, 2.8e9),
    "9b": (8, 48, 3072, 24, 4, 1024, 530_000, 0.95, 8.7e9),
    "41b": (8, 56, 6144, 48, 16, 2048, 205_000, 0.95, 41.1e9),
    "quickstart": (2, 4, 192, 6, 1, None, None, None, None),
    "tiny": (1, 3, 64, 4, 1, None, None, None, None),
}
LENGTHS = {"tiny": (512, 32, 64, 16), "quickstart": (4096, 192, 192, 32)}  # vocabulary, context, inputs, head_dim
QUICKSTART = dict(  # minutes on two cores: bodies of the Python standard library's functions from signature and docstring
    train=dict(
        objective="pairs",
        steps=300,
        log_every=5,
        batch_tokens=12 * 192,
        optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
        schedule="wsd(peak=4e-3, warmup='40 steps', decay='40%', final=0.05)",
        dtype="float32",
        scan=False,
    ),
    data=dict(source="stdlib_functions", tokenizer="sentencepiece(vocab=vocab)"),
    evaluation=dict(every="10%", max_tokens=32768, metrics=("exact_match", "f1"), pairs=100),
)
RECIPES = {
    "tiny": dict(train=dict(TINY_TRAINING, objective="random_pivot"), data=dict(tokenizer="sentencepiece(vocab=vocab-128)")),
    "quickstart": QUICKSTART,
}


def get_config(size="300m"):
    encoder, decoder, d_model, heads, kv_heads, batch, steps, b2, published = SIZES[size]
    vocab, context, inputs, head_dim = LENGTHS.get(size, (8000, 768, 1536, 128))
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}"
    pretraining = dict(
        train=dict(
            objective="random_pivot",
            steps=steps,
            batch_tokens=(batch or 1) * 768,
            optimizer=f"adamw(b1=0.9, b2={b2}, weight_decay=0.1)",
            schedule="cosine(peak=1e-4, warmup='1000 steps', final=0.1)",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
    )
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            inputs=inputs,
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
            initializer="fan_in(embedding_std=1.0)",
        ),
        **RECIPES.get(size, pretraining),
        about=dict(
            paper="Li et al. 2022, arXiv:2203.07814",
            facts=f"alphacode-{size}",
            published=published,
            sources=("arXiv:2203.07814, Table 3 and sections 4.1 to 4.3",),
            unsure=("position", "norm", "activation", "bias", "tied embeddings", "initializer"),
            notes="Fine-tuning: train.loss='gold', or 'cross_entropy(temperature=0.2)' for tempering alone. "
            "The value head is not here.",
        ),
    )
