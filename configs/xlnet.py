"""XLNet: an encoder that predicts tokens in a random order, with relative positions and one stream to be seen and one to ask."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, steps, sequences, peak learning rate, warmup, published
    "base": (12, 768, 12, 1_000_000, 256, 1e-4, 10_000, 110e6),
    "large": (24, 1024, 16, 500_000, 8192, 4e-4, 40_000, 340e6),
    "tiny": (2, 64, 4, None, None, None, None, None),
}
NOTES = (
    "The published sizes leave out the relative projections, of which every layer has its own. Pre-training computes two streams, "
    "which the training FLOPs count; all else needs one. The memory of earlier text (384 tokens in pre-training) is left out."
)


def get_config(size="base"):
    layers, d_model, heads, steps, sequences, peak, warmup, published = SIZES[size]
    tiny = size == "tiny"
    drop = "" if tiny else ", dropout=0.1"
    return experiment(
        model=dict(
            vocab=512 if tiny else 32000,
            d_model=d_model,
            context=64 if tiny else 512,
            norm="layernorm(eps=1e-12)",
            position="transformer_xl(parts=True)",
            mask="permutation",
            embedding=f"table({drop[2:]})" if drop else "table",
            attention=f"mha(heads={heads}{drop})",
            mlp="gelu(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"post(attention, mlp{drop})"),
            encoder=f"{layers}*block",
            head="tied(bias=True)",
            initializer="normal(std=0.02)",
        ),
        train=dict(TINY_TRAINING, objective="permutation_lm")
        if tiny
        else dict(
            objective="permutation_lm",
            steps=steps,
            batch_tokens=sequences * 512,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)",
            schedule=f"linear(peak={peak}, warmup='{warmup} steps')",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Yang et al. 2019, arXiv:1906.08237",
            facts=f"xlnet-{size}",
            published=published,
            sources=("zihangdai/xlnet", "arXiv:1906.08237, sections 2.2 to 2.5 and Appendix A.4"),
            unsure=("training.betas",) if size == "large" else ("training",),
            notes=NOTES,
            verified_against="transformers.XLNetLMHeadModel",
        ),
    )
