"""OpenAssistant: LLaMA 30B tuned on trees of conversations that volunteers wrote and ranked."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"30b": "llama:1-33b", "tiny": "llama:tiny"}


def get_config(size="30b"):
    tiny = size == "tiny"
    return derived(
        SIZES[size],
        # The paper's configuration files were not opened: LLaMA's usual tuning stands in.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=500,
            batch_tokens=128 * 2048,
            optimizer="adamw(b1=0.9, b2=0.95)",
            schedule="cosine(peak=1e-5, warmup='20 steps')",
        ),
        about=dict(
            paper="Koepf et al. 2023, arXiv:2304.07327",
            facts=f"openassistant-llama-{size}",
            sources=("arXiv:2304.07327",),
            unsure=("training",),
            notes="Supervised tuning on OASST1; other runs started from Pythia 12B, and some went on with reinforcement.",
        ),
    )
