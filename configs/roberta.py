"""RoBERTa: BERT with one kind of sentence, more text, larger batches and masks drawn anew at every visit."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, peak learning rate, warmup steps, published
    "base": ("bert:base", 6e-4, 24_000, 125e6),
    "large": ("bert:large", 4e-4, 30_000, 355e6),
    "tiny": ("bert:tiny", None, None, None),
}


def get_config(size="base"):
    base, peak, warmup, published = SIZES[size]
    tiny = size == "tiny"
    drop = "" if tiny else ", dropout=0.1"
    return derived(
        base,
        model=dict(
            **({} if tiny else dict(vocab=50265)),
            norm="layernorm(eps=1e-5)",
            position="learned(length=context+2, offset=2)",
            embedding=f"table(types=1, norm=norm{drop})",
        ),
        train=dict(TINY_TRAINING, objective="masked_lm")
        if tiny
        else dict(
            objective="masked_lm",
            steps=500_000,
            batch_tokens=8192 * 512,
            optimizer="adamw(b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01)",
            schedule=f"linear(peak={peak}, warmup='{warmup} steps')",
            clip=None,
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Liu et al. 2019, arXiv:1907.11692",
            facts=f"roberta-{size}",
            published=published,
            sources=("facebookresearch/fairseq roberta", "arXiv:1907.11692, Table 9"),
            unsure=("training.peak_lr", "training.warmup"),
            verified_against="transformers.RobertaForMaskedLM",
        ),
    )
