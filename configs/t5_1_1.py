"""T5 v1.1: T5 with gated feed-forward layers, a head of its own and no dropout, trained on text alone."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # layers of each stack, d_model, heads, d_ff, published
    "small": (8, 512, 6, 1024, 77e6),
    "base": (12, 768, 12, 2048, 250e6),
    "large": (24, 1024, 16, 2816, 800e6),
    "xl": (24, 2048, 32, 5120, 3e9),
    "xxl": (24, 4096, 64, 10240, 11e9),
    "tiny": (2, 64, 4, 96, None),
}


def get_config(size="small"):
    layers, d_model, heads, d_ff, published = SIZES[size]
    tiny = size == "tiny"
    attention = f"mha(heads={heads}, head_dim={16 if tiny else 64}, scale=1"
    return derived(
        "t5:tiny" if tiny else "t5:small",
        model=dict(
            d_model=d_model,
            embedding="table",
            attention=f"{attention})",
            encoder_attention=f"{attention}, mask=full, position=t5_bias(shared=True, bidirectional=True))",
            cross_attention=f"{attention}, mask=full, position=none, source='encoder')",
            mlp=f"geglu(d_ff={d_ff}, approximate=True)",
            blocks=dict(reading="pre(encoder_attention, mlp)", writing="pre(attention, cross_attention, mlp)"),
            encoder=f"{layers}*reading",
            decoder=f"{layers}*writing",
            head="untied",
        ),
        train=dict(TINY_TRAINING, objective="span_corruption")
        if tiny
        else dict(
            objective="span_corruption",
            steps=1_000_000,
            batch_tokens=2048 * 114,
            optimizer="adafactor",
            schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
            loss="cross_entropy(z=1e-4)",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Shazeer 2020, arXiv:2002.05202; google-research/t5 released_checkpoints.md",
            facts=f"t5-v1.1-{size}",
            published=published,
            sources=("google-research/t5x examples/t5/t5_1_1",),
            unsure=("training.peak_lr",),
            notes="Published sizes are rounded.",
            verified_against="transformers.T5ForConditionalGeneration",
        ),
    )
