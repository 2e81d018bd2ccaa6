"""Apple's server foundation model of 2025: parallel tracks with experts, which meet after three windowed layers and a full one."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers in order, tracks, d_model, heads, kv_heads, window, d_ff, experts, top_k, vocab, context
    "pt-moe-2025": ("12*block", 8, 2048, 16, 2, 4096, 5632, 16, 2, 153600, 8192),
    "tiny": ("block", 2, 32, 2, 1, 16, 64, 4, 2, 512, 64),
}


def get_config(size="pt-moe-2025"):
    decoder, tracks, d_model, heads, kv_heads, window, d_ff, experts, top_k, vocab, context = SIZES[size]
    tiny = size == "tiny"
    attention, expert = f"gqa(heads={heads}, kv_heads={kv_heads}", f"swiglu(d_ff={d_ff})"
    layers = "pre(attention, dense), pre(attention, moe), pre(attention, dense), pre(full_attention, moe)"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position="rope(theta=500000)",
            attention=f"{attention}, mask=local(window={window}))",
            full_attention=f"{attention}, position=none)",
            dense=expert,
            moe=f"moe(experts={experts}, top_k={top_k}, router=softmax(balance=0.01), expert={expert})",
            blocks=dict(block=f"tracks({layers}, count={tracks})"),
            decoder=decoder,
            head="tied",
            initializer="normal(std=0.02)",
        ),
        # Only the tokens are published.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=13.4e12,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Apple 2025, arXiv:2507.13575, section 2.2",
            facts=f"afm-server-{size}",
            sources=("arXiv:2507.13575",),
            unsure=("layers", "tracks", "d_model", "heads", "kv_heads", "d_ff", "experts", "top_k", "vocab", "context", "training"),
            notes="Public are tracks of four layers that meet at their borders, windows of 4096 with rotary positions in three of "
            "four layers, no positions in the full ones, and experts that drop no token, in every second layer as others say. "
            "All sizes are placeholders, and that tracks have the model's width and their sum is added is our reading.",
        ),
    )
