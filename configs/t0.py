"""T0: T5 v1.1 tuned on many tasks written as prompts."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, published
    "3b": ("t5_1_1:xl", 3e9),
    "11b": ("t5_1_1:xxl", 11e9),
    "tiny": ("t5_1_1:tiny", None),
}


def get_config(size="3b"):
    base, published = SIZES[size]
    tiny = size == "tiny"
    return derived(
        base,
        model={} if tiny else dict(context=256, inputs=1024),
        train=dict(TINY_TRAINING, objective="span_corruption")
        if tiny
        else dict(objective="pairs", steps=12_200, batch_tokens=1024 * 256, optimizer="adafactor", schedule="constant(peak=1e-3)"),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Sanh et al. 2021, arXiv:2110.08207",
            facts=f"t0-{size}",
            published=published,
            sources=("arXiv:2110.08207",),
            unsure=("training", "context", "inputs"),
            notes="Starts from weights that were adapted to language modelling. Published sizes are rounded.",
            verified_against="transformers.T5ForConditionalGeneration",
        ),
    )
