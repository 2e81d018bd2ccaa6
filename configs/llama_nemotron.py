"""Llama Nemotron: Llama 3.1 70B Instruct reinforced against a reward model of attributed human preferences."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"70b": "llama:3.1-70b", "tiny": "llama:tiny"}


def get_config(size="70b"):
    tiny = size == "tiny"
    return derived(
        SIZES[size],
        # Neither the steps nor the batch of the reinforcement are public here; the numbers are placeholders.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=1000,
            context=4096,
            batch_tokens=64 * 4096,
            optimizer="adamw(b1=0.9, b2=0.95)",
            schedule="constant(peak=1e-6)",
        ),
        about=dict(
            paper="Wang et al. 2024, arXiv:2410.01257",
            facts=f"llama-3.1-nemotron-{size}",
            published=None if tiny else 70.6e9,
            sources=("the model card", "arXiv:2410.01257"),
            unsure=("training",),
            notes="REINFORCE with a leave-one-out baseline and the rewards of a HelpSteer2-Preference model.",
        ),
    )
