"""Platypus: Llama 2 with low-rank adapters trained one pass over 25,000 questions of science and logic, then merged."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, name of the facts, peak learning rate, published
    "7b": ("llama:2-7b", "platypus2-7b", 4e-4, 6.7e9),
    "13b": ("llama:2-13b", "platypus2-13b", 4e-4, 13e9),
    "70b": ("llama:2-70b", "platypus2-70b", 3e-4, 69e9),
    "openorca-13b": ("llama:2-13b", "openorca-platypus2-13b", 4e-4, 13e9),
    "tiny": ("llama:tiny", "platypus2-tiny", None, None),
}
NOTES = {
    "openorca-13b": "A weight merge of the 13B model with a fine-tune on OpenOrca data; the recipe is the 13B's.",
}


def get_config(size="7b"):
    base, facts, peak, published = SIZES[size]
    return derived(
        base,
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            steps=25_000 // 16,
            batch_tokens=16 * 4096,
            optimizer="adamw(b1=0.9, b2=0.999)",
            schedule=f"cosine(peak={peak}, warmup='100 steps')",
        ),
        about=dict(
            paper="Lee et al. 2023, arXiv:2308.07317",
            facts=facts,
            published=published,
            sources=("arielnlee/Platypus fine-tuning.sh", "arXiv:2308.07317"),
            unsure=("optimizer.b1 and b2", "peak", "clip") if size != "openorca-13b" else ("merge coefficients",),
            notes=NOTES.get(
                size, "Trained were adapters of rank 16 (alpha 16, dropout 0.05) on the feed-forward projections only."
            ),
        ),
    )
