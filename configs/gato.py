"""Gato: one decoder over text, images, joint torques and button presses, all as tokens of a single vocabulary."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, feed-forward width before the gate splits it, published
    "79m": (8, 768, 24, 3072, 79e6),
    "364m": (12, 1536, 12, 6144, 364e6),
    "1.18b": (24, 2048, 16, 8192, 1.18e9),
    "tiny": (2, 64, 4, 256, None),
}


def get_config(size="79m"):
    layers, d_model, heads, d_ff, published = SIZES[size]
    tiny = size == "tiny"
    dropout = 0.0 if tiny else 0.1
    return experiment(
        model=dict(
            # 32000 text pieces and 1024 bins of continuous values; discrete actions share the first ids.
            vocab=512 if tiny else 33024,
            d_model=d_model,
            context=64 if tiny else 1024,
            norm="layernorm(eps=1e-5)",
            position="transformer_xl",
            attention=f"mha(heads={heads})",
            mlp=f"geglu(d_ff={d_ff}/2)",
            blocks=dict(block=f"pre(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=1_000_000,
            batch_tokens=512 * 1024,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule="cosine(peak=1e-4, warmup='15000 steps', final=0.1)",
        ),
        about=dict(
            paper="Reed et al. 2022, arXiv:2205.06175",
            facts=f"gato-{size}",
            verified_against="the papers' formulas, written as loops",
            published=published,
            sources=("arXiv:2205.06175, Table 5 and appendix C", "OrigamiDream/gato README"),
            unsure=("position", "mlp", "norm", "bias", "clip", "initializer"),
            notes="The decoder trunk: left out are the residual network that embeds image patches and the tables of patch and "
            "time-step positions, the last 1.7 to 5M of the published sizes; only text and actions counted in the loss.",
        ),
    )
