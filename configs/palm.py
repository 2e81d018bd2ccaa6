"""PaLM: parallel blocks, multi-query attention, SwiGLU, no biases, embeddings shared with the head."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, head_dim, first batch in sequences, later batches as (sequences, first step)
    "8b": (32, 4096, 16, 256, 256, "512 from 50000"),
    "62b": (64, 8192, 32, 256, 512, "1024 from 50000"),
    "540b": (118, 18432, 48, 256, 512, "1024 from 50000, 2048 from 115000"),
    "tiny": (2, 64, 4, 16, None, None),
}
PUBLISHED = {"8b": 8.63e9, "62b": 62.5e9, "540b": 540.35e9}


def get_config(size="8b"):
    layers, d_model, heads, head_dim, first, later = SIZES[size]
    tiny = size == "tiny"
    last = 1 if tiny else int(later.split(", ")[-1].split()[0])
    return experiment(
        model=dict(
            vocab=512 if tiny else 256000,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5, bias=False)",
            position="rope",
            attention=f"mqa(heads={heads}, head_dim={head_dim})",
            mlp="swiglu(d_ff=4*d_model)",
            blocks=dict(block="parallel(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied(scale=d_model**-0.5)",
            initializer="fan_in(embedding_std=1.0)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=255_000,
            batch_tokens=last * 2048,
            batch_ramp=f"stages(first={first}, later='{later}')",
            optimizer="adafactor(b1=0.9, decay=0.8, factored=False, weight_decay=1.0, decay_by_square=True)",
            schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
            loss="cross_entropy(z=1e-4)",
        ),
        about=dict(
            paper="Chowdhery et al. 2022, arXiv:2204.02311",
            facts=f"palm-{size}",
            verified_against="the papers' formulas, written as loops",
            published=PUBLISHED.get(size),
            sources=("arXiv:2204.02311, Table 1 and sections 2 and 5",),
            unsure=(
                "norm.eps",
                "position.theta",
                "position.interleaved",
                "norm shared by the parallel branches",
                "the smaller sizes' batch boundaries",
            ),
            notes="Logits are scaled by 1/sqrt(d_model) because the shared embeddings start as N(0, 1).",
        ),
    )
