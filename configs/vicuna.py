"""Vicuna: LLaMA tuned on conversations that users shared, with the loss on every answer of the assistant."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, published
    "7b": ("llama:1-7b", 6.7e9),
    "13b": ("llama:1-13b", 13e9),
    "tiny": ("llama:tiny", None),
}


def get_config(size="7b"):
    base, published = SIZES[size]
    return derived(
        base,
        # Three passes over about 370M tokens of dialogue.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=3 * 370e6,
            context=2048,
            batch_tokens=128 * 2048,
            optimizer="adamw(b1=0.9, b2=0.999)",
            schedule="cosine(peak=2e-5, warmup='3%')",
        ),
        about=dict(
            paper="Chiang et al. 2023, Vicuna",
            facts=f"vicuna-{size}",
            published=published,
            sources=("lm-sys/FastChat README and docs/vicuna_weights_version.md",),
            unsure=("optimizer.b1 and b2", "warmup", "tokens", "clip"),
            notes="Versions 0 to 1.3; 1.5 starts from Llama 2, and its 16k variants interpolate positions linearly. "
            "Only the assistant's turns count in the loss.",
        ),
    )
