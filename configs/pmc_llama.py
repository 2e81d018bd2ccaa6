"""PMC-LLaMA: LLaMA trained on with millions of biomedical papers, and in the larger size with textbooks and instructions."""

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
        # Each pass draws 512 tokens from each of 4.8M papers.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            steps=5 * 4_800_000 // 128,
            context=512,
            batch_tokens=128 * 512,
            optimizer="adamw(b1=0.9, b2=0.95)",
            schedule="cosine(peak=2e-5, warmup='3%')",
        ),
        about=dict(
            paper="Wu et al. 2023, arXiv:2304.14454",
            facts=f"pmc-llama-{size}",
            published=published,
            sources=("chaoyi-wu/PMC-LLaMA README and Pretrain/training.sh", "arXiv:2304.14454"),
            unsure=("training",) if size == "13b" else ("batch_tokens", "context", "optimizer.b1 and b2"),
            notes="The recipe is that of the first 7B model; the 13B model read books as well and was then tuned on instructions.",
        ),
    )
