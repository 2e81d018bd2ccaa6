"""Grok-1: two of eight wide experts in every layer, norms on both sides of sublayers, and capped attention scores."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, head_dim, d_ff, experts, vocab, context, published
    "314b": (64, 6144, 48, 8, 128, 32768, 8, 131072, 8192, 314e9),
    "tiny": (2, 64, 4, 2, 16, 96, 4, 512, 64, None),
}


def get_config(size="314b"):
    layers, d_model, heads, kv_heads, head_dim, d_ff, experts, vocab, context, published = SIZES[size]
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position="rope",
            embedding="table(scale=78.38367176906169)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}, softcap=30)",
            moe=f"moe(experts={experts}, top_k=2, router=softmax, expert=geglu(d_ff={d_ff}, approximate=True))",
            blocks=dict(block="sandwich(attention, moe)"),
            decoder=f"{layers}*block",
            head="tied(scale=3**-0.5)",
            initializer="fan_in(embedding_std=d_model**-0.5)",
        ),
        # Nothing about training was published.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=2e12,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="xAI 2024, github.com/xai-org/grok-1",
            facts="grok-1" if size == "314b" else f"grok-1-{size}",
            published=published,
            sources=("xai-org/grok-1 run.py, model.py and README",),
            unsure=("training", "initializer"),
            notes="Unverified: the code released is not run here. The published 314B is rounded down; its README calls 25% active.",
        ),
    )
