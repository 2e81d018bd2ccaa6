"""Alpaca: LLaMA tuned on 52,000 instructions that a larger model wrote and answered."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, epochs, peak learning rate, published
    "7b": ("llama:1-7b", 3, 2e-5, 6.7e9),
    "13b": ("llama:1-13b", 5, 1e-5, 13e9),
    "tiny": ("llama:tiny", None, None, None),
}


def get_config(size="7b"):
    base, epochs, peak, published = SIZES[size]
    return derived(
        base,
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            steps=52_000 * epochs // 128,
            context=512,
            batch_tokens=128 * 512,
            optimizer="adamw(b1=0.9, b2=0.999)",
            schedule=f"cosine(peak={peak}, warmup='3%')",
        ),
        about=dict(
            paper="Taori et al. 2023, Stanford Alpaca",
            facts=f"alpaca-{size}",
            published=published,
            sources=("tatsu-lab/stanford_alpaca README",),
            unsure=("optimizer.b1 and b2", "clip"),
            notes="Starts from the base's weights. Only responses count in the loss, one to a row of 512 tokens.",
        ),
    )
