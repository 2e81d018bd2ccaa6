"""FLAN-T5: T5 v1.1 tuned on 1836 tasks stated as instructions."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"small": 80e6, "base": 250e6, "large": 780e6, "xl": 3e9, "xxl": 11e9, "tiny": None}  # published


def get_config(size="small"):
    tiny = size == "tiny"
    return derived(
        f"t5_1_1:{size}",
        model={} if tiny else dict(context=256, inputs=1024),
        train=dict(TINY_TRAINING, objective="span_corruption")
        if tiny
        else dict(objective="pairs", steps=38_000, batch_tokens=64 * 256, optimizer="adafactor", schedule="constant(peak=5e-4)"),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Chung et al. 2022, arXiv:2210.11416",
            facts=f"flan-t5-{size}",
            published=SIZES[size],
            sources=("arXiv:2210.11416",),
            unsure=("training", "context", "inputs"),
            notes="Starts from weights that were adapted to language modelling. Published sizes are rounded.",
            verified_against="transformers.T5ForConditionalGeneration",
        ),
    )
