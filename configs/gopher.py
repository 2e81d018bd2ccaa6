"""Gopher: RMS norms and Transformer-XL's relative positions in GPT-2's block."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, batch tokens, peak learning rate, clip, published
    "44m": (8, 512, 16, 250_000, 6e-4, 1.0, 44e6),
    "117m": (12, 768, 12, 250_000, 6e-4, 1.0, 117e6),
    "417m": (12, 1536, 12, 250_000, 2e-4, 1.0, 417e6),
    "1.4b": (24, 2048, 16, 250_000, 2e-4, 1.0, 1.4e9),
    "7.1b": (32, 4096, 32, 2_000_000, 1.2e-4, 0.25, 7.1e9),
    "280b": (80, 16384, 128, 6_000_000, 4e-5, 0.25, 280e9),
    "tiny": (2, 64, 4, None, None, None, None),
}


def get_config(size="44m"):
    layers, d_model, heads, batch_tokens, peak, clip, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 32000,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="rmsnorm(eps=1e-6)",
            position="transformer_xl",
            attention=f"mha(heads={heads}, head_dim={d_model // heads})",
            mlp="gelu(d_ff=4*d_model)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="fan_in(embedding_std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=300e9,
            batch_tokens=batch_tokens // 2048 * 2048,
            # The largest model's batch doubled "during training"; when is not said.
            batch_ramp="linear(start=3e6, over='150e9 tokens', increments=1)" if size == "280b" else None,
            optimizer="adamw(b1=0.9, b2=0.95)",
            schedule=f"cosine(peak={peak}, warmup='1500 steps', final=0.1)",
            clip=clip,
        ),
        about=dict(
            paper="Rae et al. 2021, arXiv:2112.11446",
            facts=f"gopher-{size}",
            verified_against="the papers' formulas, written as loops",
            published=published,
            sources=("arXiv:2112.11446, Table 1 and section 3",),
            unsure=("activation", "bias", "norm.eps", "head", "optimizer.b1 and b2", "initializer", "batch_ramp"),
            notes="The published sizes need the relative projection of every layer: 13 layers d_model^2 + 32000 d_model.",
        ),
    )
