"""BERT: an encoder that guesses masked tokens, with learned positions and norms after every sublayer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, published
    "base": (12, 768, 12, 110e6),
    "large": (24, 1024, 16, 340e6),
    "tiny": (2, 64, 4, None),
}


def get_config(size="base"):
    layers, d_model, heads, published = SIZES[size]
    tiny = size == "tiny"
    drop = "" if tiny else ", dropout=0.1"
    return experiment(
        model=dict(
            vocab=512 if tiny else 30522,
            d_model=d_model,
            context=64 if tiny else 512,
            norm="layernorm(eps=1e-12)",
            position="learned",
            embedding=f"table(types=2, norm=norm{drop})",
            attention=f"mha(heads={heads}, bias=True{drop})",
            mlp="gelu(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"post(attention, mlp{drop})"),
            encoder=f"{layers}*block",
            head="mlm",
            initializer="normal(std=0.02)",
        ),
        train=dict(TINY_TRAINING, objective="masked_lm")
        if tiny
        else dict(
            objective="masked_lm",
            steps=1_000_000,
            batch_tokens=256 * 512,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)",
            schedule="linear(peak=1e-4, warmup='10000 steps')",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Devlin et al. 2018, arXiv:1810.04805",
            facts=f"bert-{size}",
            published=published,
            sources=("google-research/bert", "arXiv:1810.04805, Appendix A.2"),
            unsure=("training",),
            notes="Counted with the head that guesses tokens and without the pooler of next-sentence prediction, which is not in "
            "this objective; 90% of the steps had rows of 128 tokens.",
            verified_against="transformers.BertForMaskedLM",
        ),
    )
