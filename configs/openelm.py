"""OpenELM: layers that grow in heads and feed-forward width from the first to the last."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, head_dim, step of the widths, peak learning rate, published
    "270m": (16, 1280, 64, 256, 5.3e-3, 270e6),
    "450m": (20, 1536, 64, 256, 3.9e-3, 450e6),
    "1.1b": (28, 2048, 64, 256, 2.4e-3, 1.08e9),
    "3b": (36, 3072, 128, 256, 1.2e-3, 3.04e9),
    "tiny": (3, 64, 8, 16, None, None),
}


def spread(first, last, layers):
    """Evenly spaced multipliers, one a layer, with two decimals."""
    return [round(first + (last - first) * i / (layers - 1), 2) for i in range(layers)]


def multiple(value, step):
    """The nearest multiple of `step` that is at most a tenth smaller (MobileNet's rounding)."""
    nearest = max(step, int(value + step / 2) // step * step)
    return nearest + step if nearest < 0.9 * value else nearest


def get_config(size="270m"):
    layers, d_model, head_dim, step, peak, published = SIZES[size]
    tiny = size == "tiny"
    heads = [multiple(a * d_model, 4 * head_dim) // head_dim for a in spread(0.5, 1.0, layers)]
    widths = [multiple(b * d_model, step) for b in spread(0.5, 4.0, layers)]
    gqa = "gqa(heads={}, kv_heads={}, head_dim={}, qk_norm=norm)"
    return experiment(
        model=dict(
            vocab=512 if tiny else 32000,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="rmsnorm(eps=1e-6)",
            position="rope",
            **{f"attention_{i}": gqa.format(n, n // 4, head_dim) for i, n in enumerate(heads)},
            **{f"mlp_{i}": f"swiglu(d_ff={width})" for i, width in enumerate(widths)},
            blocks={f"layer_{i}": f"pre(attention_{i}, mlp_{i})" for i in range(layers)},
            decoder=" + ".join(f"layer_{i}" for i in range(layers)),
            head="tied",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=350_000,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='5000 steps', final=0.1)",
        ),
        about=dict(
            paper="Mehta et al. 2024, arXiv:2404.14619",
            facts=f"openelm-{size}",
            verified_against="the papers' formulas, written as loops",
            published=published,
            sources=("apple/corenet general_gpt.py and projects/openelm", "arXiv:2404.14619"),
            unsure=("norm.eps", "initializer"),
            notes="Queries take 0.5 to 1 times d_model, feed-forward layers 0.5 to 4 times. Trained with 128 more table rows.",
        ),
    )
