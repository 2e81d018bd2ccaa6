"""ClinicalGPT: BLOOM 7.1B tuned on medical records, exams and dialogues, then by reinforcement from preferences."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"7b": "bloom:7.1b", "tiny": "bloom:tiny"}


def get_config(size="7b"):
    tiny = size == "tiny"
    return derived(
        SIZES[size],
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=10_000,
            context=1024,
            batch_tokens=128 * 1024,
            optimizer="adamw(b1=0.9, b2=0.999)",
            schedule="cosine(peak=5e-5, warmup='3%')",
        ),
        about=dict(
            paper="Wang et al. 2023, arXiv:2306.09968",
            facts=f"clinicalgpt-{size}",
            published=None if tiny else 7.07e9,
            sources=("arXiv:2306.09968", "bigscience-workshop configuration of BLOOM 7.1B"),
            unsure=("base", "training"),
            notes="The supervised stage, with low-rank adapters; a reward model and PPO with a KL penalty followed.",
        ),
    )
