"""Longformer: RoBERTa trained on with a window around each token instead of full attention, and global tokens beside it."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, heads, context, tokens on each side
    "base": ("roberta:base", 12, 4096, 256),
    "large": ("roberta:large", 16, 4096, 256),
    "tiny": ("roberta:tiny", 4, 64, 8),
}


def get_config(size="base"):
    base, heads, context, sides = SIZES[size]
    tiny = size == "tiny"
    drop = "" if tiny else ", dropout=0.1"
    return derived(
        base,
        model=dict(
            context=context,
            mask=f"around(sides={sides})",
            attention=f"mha(heads={heads}, bias=True, global_projections=True{drop})",
        ),
        train=dict(TINY_TRAINING, objective="masked_lm")
        if tiny
        else dict(
            objective="masked_lm",
            steps=65_000,
            batch_tokens=64 * 4096,
            optimizer="adamw(b1=0.9, b2=0.999, weight_decay=0.01)",
            schedule="linear(peak=3e-5, warmup='500 steps', power=3)",
        ),
        about=dict(
            paper="Beltagy et al. 2020, arXiv:2004.05150",
            facts=f"longformer-{size}",
            sources=("arXiv:2004.05150, sections 3 and 5", "allenai/longformer scripts/convert_model_to_long.ipynb"),
            unsure=("training.peak_lr", "optimizer", "clip"),
            notes="Starts from the weights of the base, whose positions are copied eight times, and its projections from the same. "
            "No token is global while it is trained on masked tokens; tasks mark them as the prefix of a row.",
            verified_against="transformers.LongformerForMaskedLM",
        ),
    )
