"""gpt-oss: experts with clamped gates in every layer, windows in every second, and a sink in every head."""

from taxonomy.config import TINY_TRAINING, experiment

# layers in order, d_model, heads, kv_heads, head_dim, window, experts, top_k, d_ff, vocab, context, first context, published
SIZES = {
    "20b": ("12*(local + full)", 2880, 64, 8, 64, 128, 32, 4, 2880, 201088, 131072, 4096, 20.91e9),
    "120b": ("18*(local + full)", 2880, 64, 8, 64, 128, 128, 4, 2880, 201088, 131072, 4096, 116.83e9),
    "tiny": ("local + full", 64, 4, 2, 32, 16, 4, 2, 96, 512, 64, 16, None),
}


def get_config(size="20b"):
    decoder, d_model, heads, kv_heads, head_dim, window, experts, top_k, d_ff, vocab, context, first, published = SIZES[size]
    tiny = size == "tiny"
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}, bias=True, sinks=True"
    router, expert = "softmax(renormalize=True, bias=True)", f"clamped_swiglu(d_ff={d_ff}, limit=7, bias=True)"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position=f"rope(theta=150000, scaling=yarn(factor=32, original_context={first}, rounded=False))",
            attention=f"{attention}, mask=local(window={window}))",
            full_attention=f"{attention})",
            moe=f"moe(experts={experts}, top_k={top_k}, router={router}, expert={expert})",
            blocks=dict(local="pre(attention, moe)", full="pre(full_attention, moe)"),
            decoder=decoder,
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # Nothing of the recipe is published but "trillions of tokens"; the numbers are placeholders.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=1e12,
            context=4096,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="OpenAI 2025, arXiv:2508.10925",
            facts=f"gpt-oss-{size}",
            published=published,
            sources=("openai/gpt-oss gpt_oss/torch/model.py", "arXiv:2508.10925, Table 1"),
            unsure=("training", "initializer", "router.balance"),
            notes="The published active counts leave out the token table. The experts were released in 4 bits (MXFP4).",
            verified_against="transformers.GptOssForCausalLM",
        ),
    )
