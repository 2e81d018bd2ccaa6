"""Transformer: the encoder and decoder that began it, with sinusoidal positions and norms after every sublayer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers of each stack, d_model, heads, dropout, steps, published
    "base": (6, 512, 8, 0.1, 100_000, 65e6),
    "big": (6, 1024, 16, 0.3, 300_000, 213e6),
    "tiny": (2, 64, 4, 0.0, None, None),
}


def get_config(size="base"):
    layers, d_model, heads, dropout, steps, published = SIZES[size]
    tiny = size == "tiny"
    drop = f", dropout={dropout}" if dropout else ""
    return experiment(
        model=dict(
            vocab=512 if tiny else 37000,
            d_model=d_model,
            context=64 if tiny else 256,
            inputs=64 if tiny else 256,
            norm="layernorm(eps=1e-6)",
            position="sinusoidal",
            embedding=f"table(scale=d_model**0.5{drop})",
            attention=f"mha(heads={heads})",
            encoder_attention=f"mha(heads={heads}, mask=full)",
            cross_attention=f"mha(heads={heads}, mask=full, source='encoder')",
            mlp="relu(d_ff=4*d_model, bias=True)",
            blocks=dict(
                reading=f"post(encoder_attention, mlp{drop})",
                writing=f"post(attention, cross_attention, mlp{drop})",
            ),
            encoder=f"{layers}*reading",
            decoder=f"{layers}*writing",
            head="tied",
            initializer="xavier(embedding_std=d_model**-0.5)",
        ),
        train=dict(TINY_TRAINING, objective="span_corruption")
        if tiny
        else dict(
            objective="pairs",
            steps=steps,
            loss="cross_entropy(label_smoothing=0.1)",
            batch_tokens=25_000 // 256 * 256,
            optimizer="adamw(b1=0.9, b2=0.98, eps=1e-9, weight_decay=0)",
            schedule=f"inverse_sqrt(peak={(d_model * 4000) ** -0.5:.3e}, hold='4000 steps', warmup='4000 steps')",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Vaswani et al. 2017, arXiv:1706.03762",
            facts=f"transformer-{size}",
            published=published,
            sources=(
                "arXiv:1706.03762, Table 3 and section 5.4",
                "tensorflow/tensor2tensor transformer_base_v1 and transformer_big",
            ),
            unsure=("vocab", "norm.eps", "bias", "context", "initializer"),
            notes="The shared table of English to German. The base's printed 65M does not follow from its table's shape (63.0M).",
            verified_against="" if tiny else "torch.nn.Transformer",
        ),
    )
