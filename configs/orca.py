"""Orca: LLaMA 13B taught by explanations, first five million of a good teacher's and then a million of a better one's."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"13b": "llama:1-13b", "tiny": "llama:tiny"}


def get_config(size="13b"):
    tiny = size == "tiny"
    return derived(
        SIZES[size],
        # Four passes over each set, packed to 2048 tokens. How many tokens that is, and the rates, were not published.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=10e9,
            batch_tokens=512 * 2048,
            optimizer="adamw(b1=0.9, b2=0.999)",
            schedule="cosine(peak=2e-5, warmup='3%')",
        ),
        about=dict(
            paper="Mukherjee et al. 2023, arXiv:2306.02707",
            facts=f"orca-{size}",
            published=None if tiny else 13e9,
            sources=("arXiv:2306.02707, sections 3 and 4",),
            unsure=("training", "base"),
            notes="Starts from the base's weights. Examples are a system message, a FLAN task and the teacher's explanation, "
            "the only part that counts in the loss.",
        ),
    )
