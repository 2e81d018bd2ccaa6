"""DeepSeek-V3: DeepSeek-V2 with 256 experts that sigmoids choose, balanced by a bias instead of a loss."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, query_rank, d_ff, experts, top_k, d_ff_expert, vocab, context
    "671b": ("3*dense + 58*sparse", 7168, 128, 1536, 18432, 256, 8, 2048, 129280, 131072),
    "3.1-671b": ("3*dense + 58*sparse", 7168, 128, 1536, 18432, 256, 8, 2048, 129280, 131072),
    "tiny": ("dense + 2*sparse", 64, 4, 24, 160, 8, 3, 48, 512, 64),
}
FACTS = {"671b": "deepseek-v3-671b", "3.1-671b": "deepseek-v3.1"}
ROUTER = "sigmoid(renormalize=True, scale=2.5, {}, group_best=2, bias_rate=0.001, balance=1e-4)"
WIDTHS = ("head_dim=128, rotary_dim=64, kv_rank=512", "factor=40, original_context=4096", "groups=8, group_limit=4")
TINY_WIDTHS = ("head_dim=12, rotary_dim=8, kv_rank=32", "factor=4, original_context=16", "groups=4, group_limit=2")
RECIPE = dict(
    tokens=14.8e12,
    context=4096,
    batch_tokens=15360 * 4096,
    batch_ramp="linear(start=3072*4096, over='469e9 tokens')",
    objective="fill_in_the_middle(rate=0.1, spm=0)",
    optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
    schedule="stages(peak=2.2e-4, warmup='2000 steps', "
    "later='1 by 10e12 tokens, 0.1 by 14.3e12 tokens, 0.0332 at 14.633e12 tokens')",
)


def get_config(size="671b"):
    layers, d_model, heads, query_rank, d_ff, experts, top_k, d_ff_expert, vocab, context = SIZES[size]
    tiny = size == "tiny"
    widths, stretch, groups = TINY_WIDTHS if tiny else WIDTHS
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6)",
            position=f"rope(interleaved=True, scaling=yarn({stretch}, magnitude=1, sharpening=1))",
            attention=f"latent(heads={heads}, {widths}, query_rank={query_rank})",
            mlp=f"swiglu(d_ff={d_ff})",
            moe=f"moe(experts={experts}, top_k={top_k}, router={ROUTER.format(groups)}, "
            f"expert=swiglu(d_ff={d_ff_expert}), shared=swiglu(d_ff={d_ff_expert}))",
            blocks=dict(dense="pre(attention, mlp)", sparse="pre(attention, moe)"),
            decoder=layers,
            ahead="sparse",
            head="untied",
            initializer="normal(std=0.006)",
        ),
        train=(TINY_TRAINING if tiny else RECIPE) | dict(ahead=0.3),
        about=dict(
            paper="DeepSeek-AI 2024, arXiv:2412.19437",
            facts=FACTS.get(size, "deepseek-v3-tiny"),
            published=None if tiny else 671e9,
            sources=("arXiv:2412.19437, sections 2 and 4.2", "deepseek-ai/DeepSeek-V3, inference/configs"),
            unsure=("the training that made 3.1 of it",) if size.startswith("3.1") else (),
            notes="The model after its extension to long contexts; until then it was trained without yarn, and the bias moved by "
            "0.001 a step for 14.3e12 tokens, then no more. The loss of the second token counted 0.3 for 10e12 tokens, then 0.1. "
            "Version 3.1 was trained on by 840e9 tokens of long texts.",
            verified_against="transformers.DeepseekV3ForCausalLM",
        ),
    )
