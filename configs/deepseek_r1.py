"""DeepSeek-R1: DeepSeek-V3 taught to reason by reinforcement on checked answers, and six dense models tuned on its traces."""

from taxonomy.config import TINY_TRAINING, derived

# The model of another page, and what differs from it.
MATHEMATICS = dict(position="rope(theta=10000)")
SIZES = {
    "671b": ("deepseek_v3:671b", {}),
    "distill-qwen-1.5b": ("qwen2_5:1.5b", MATHEMATICS),
    "distill-qwen-7b": ("qwen2_5:7b", MATHEMATICS),
    "distill-qwen-14b": ("qwen2_5:14b", {}),
    "distill-qwen-32b": ("qwen2_5:32b", {}),
    "distill-llama-8b": ("llama:3.1-8b", {}),
    "distill-llama-70b": ("llama:3.1-70b", {}),
    "tiny": ("deepseek_v3:tiny", {}),
}
# Neither the steps nor the batches are public here; the numbers are placeholders.
RECIPE = dict(
    steps=1000,
    context=32768,
    batch_tokens=64 * 32768,
    optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
    schedule="cosine(peak=1e-5, warmup='3%', final=0.1)",
)
PUBLISHED = {"671b": 671e9, "1.5b": 1.54e9, "7b": 7.61e9, "14b": 14.7e9, "32b": 32.5e9, "8b": 8e9, "70b": 70.6e9}


def get_config(size="671b"):
    base, changes = SIZES[size]
    tiny, distilled = size == "tiny", size.startswith("distill")
    return derived(
        base,
        model=changes,
        train=(TINY_TRAINING if tiny else RECIPE) | dict(ahead=None if distilled else 0.3),
        about=dict(
            paper="DeepSeek-AI 2025, arXiv:2501.12948",
            facts="deepseek-r1" if size == "671b" else f"deepseek-r1-{size}",
            published=PUBLISHED.get(size.rpartition("-")[2]),
            sources=("arXiv:2501.12948", "configurations of the released checkpoints"),
            unsure=("training",),
            notes="Tuned on 800e3 samples of the large model, without reinforcement. Two have bases for mathematics, whose theta "
            "is smaller; the released 1.5B has a head of its own."
            if distilled
            else "A start on long chains of thought, reinforcement by rules (GRPO), 800e3 samples of the result that passed a "
            "filter, two epochs of tuning on them, and reinforcement on all prompts; none of it is described here.",
        ),
    )
