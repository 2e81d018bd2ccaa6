"""BART: an encoder and a decoder that restore corrupted text, with BERT's block and learned positions on both sides."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers of each stack, d_model, heads, published
    "base": (6, 768, 12, 140e6),
    "large": (12, 1024, 16, 400e6),
    "tiny": (2, 64, 4, None),
}


def get_config(size="base"):
    layers, d_model, heads, published = SIZES[size]
    tiny = size == "tiny"
    drop = "" if tiny else ", dropout=0.1"
    return experiment(
        model=dict(
            vocab=512 if tiny else 50265,
            d_model=d_model,
            context=64 if tiny else 1024,
            inputs=64 if tiny else 1024,
            norm="layernorm(eps=1e-5)",
            position="learned(length=context+2, offset=2)",
            embedding=f"table(norm=norm{drop})",
            attention=f"mha(heads={heads}, bias=True)",
            encoder_attention=f"mha(heads={heads}, bias=True, mask=full)",
            cross_attention=f"mha(heads={heads}, bias=True, mask=full, source='encoder')",
            mlp="gelu(d_ff=4*d_model, bias=True)",
            blocks=dict(
                reading=f"post(encoder_attention, mlp{drop})",
                writing=f"post(attention, cross_attention, mlp{drop})",
            ),
            encoder=f"{layers}*reading",
            decoder=f"{layers}*writing",
            head="tied",
            initializer="normal(std=0.02)",
        ),
        train=dict(TINY_TRAINING, objective="text_infilling")
        if tiny
        else dict(
            objective="text_infilling",
            steps=500_000,
            batch_tokens=8000 * 1024,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)",
            schedule="linear(peak=4e-4, warmup='10000 steps')",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Lewis et al. 2019, arXiv:1910.13461",
            facts=f"bart-{size}",
            published=published,
            sources=("facebookresearch/fairseq bart_base and bart_large", "arXiv:1910.13461"),
            unsure=("training",),
            notes="Checkpoints carry a bias of the logits that is not trained; it is not counted. Published sizes are rounded. "
            "Fine-tuning to generate has smoothed labels (section 5.3): train.loss='cross_entropy(label_smoothing=0.1)'.",
            verified_against="transformers.BartForConditionalGeneration",
        ),
    )
