"""FLAN: LaMDA 137B tuned on instructions for more than sixty tasks."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"137b": "lamda:137b", "tiny": "lamda:tiny"}


def get_config(size="137b"):
    tiny = size == "tiny"
    return derived(
        SIZES[size],
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=30_000,
            batch_tokens=8 * 1024,
            optimizer="adafactor(b1=0.0, decay=0.8)",
            schedule="constant(peak=3e-5)",
        ),
        about=dict(
            paper="Wei et al. 2021, arXiv:2109.01652",
            facts=f"flan-lamda-{size}",
            verified_against="the papers' formulas, written as loops",
            published=None if tiny else 137e9,
            sources=("arXiv:2109.01652, section 2.4", "arXiv:2201.08239"),
            unsure=("norm", "position", "head", "context"),
            notes="The relative biases, 64 tables of 32 by 128, are counted. Inputs of 1024 tokens, targets of 256, at most 30,000 "
            "examples of a data set.",
        ),
    )
