"""Dolphin (QLoRA): Llama 2 70B in four bits, with adapters on its attention trained on 25,000 explained answers."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {"70b": "llama:2-70b", "tiny": "llama:tiny"}


def get_config(size="70b"):
    tiny = size == "tiny"
    return derived(
        SIZES[size],
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=25_000 // 16,
            context=2048,
            batch_tokens=16 * 2048,
            optimizer="adamw(b1=0.9, b2=0.999)",
            schedule="cosine(peak=2e-4, warmup='3%')",
        ),
        about=dict(
            paper="Furman 2023, llama-2-70b-dolphin-peft; Dettmers et al. 2023, arXiv:2305.14314",
            facts="llama-2-70b-dolphin" if not tiny else "dolphin-tiny",
            published=None if tiny else 69e9,
            sources=("daniel-furman/sft-demos peft_Llama_2_70B_Instruct_v0_1.py",),
            unsure=("batch_tokens", "clip"),
            notes="The base stays frozen in NF4 (blocks of 64). Adapters of rank 64 (alpha 16, dropout 0.1) on all projections of "
            "attention train: 262M parameters, not counted here.",
        ),
    )
