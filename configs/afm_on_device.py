"""Apple's on-device foundation model of 2025: the last three in eight layers read the keys and values of the one before them."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers in order, d_model, heads, kv_heads, d_ff, vocab, context
    "2025-3b": ("34*block + last + 21*late", 2048, 16, 2, 6144, 153600, 4096),
    "tiny": ("2*block + last + 2*late", 64, 4, 2, 160, 512, 64),
}


def get_config(size="2025-3b"):
    decoder, d_model, heads, kv_heads, d_ff, vocab, context = SIZES[size]
    tiny = size == "tiny"
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position="rope(theta=500000)",
            attention=f"{attention})",
            lending=f"{attention}, lends=True)",
            borrowing=f"{attention}, source='earlier')",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)", last="pre(lending, mlp)", late="pre(borrowing, mlp)"),
            decoder=decoder,
            head="tied",
            initializer="normal(std=0.02)",
        ),
        # Only the tokens are published; the targets were also a larger model's predictions, not in this objective.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=14e12,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Apple 2025, arXiv:2507.13575, section 2.1",
            facts=f"afm-on-device-{size}",
            published=None if tiny else 3e9,
            sources=("arXiv:2507.13575",),
            unsure=("layers", "d_model", "heads", "kv_heads", "d_ff", "vocab", "context", "theta", "norm", "head", "training"),
            notes="Public are about 3B parameters and the two parts of 5 to 3 layers, with the keys of the first part's last "
            "layer; all widths and the number of layers are placeholders. The released weights have 2 bits.",
        ),
    )
