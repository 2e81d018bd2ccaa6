"""LaMDA: a decoder for dialogue with heads twice as wide together as the stream, GEGLU and T5's relative biases."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, head_dim, steps, published (without embeddings)
    "2b": (10, 2560, 40, 128, 501_000, 2e9),
    "8b": (16, 4096, 64, 128, 521_000, 8e9),
    "137b": (64, 8192, 128, 128, 3_000_000, 137e9),
    "tiny": (2, 64, 4, 32, None, None),
}
NOTES = {
    "2b": "The label leaves out the embeddings: 2.10B are left.",
    "8b": "The label leaves out the embeddings: 8.59B are left if the feed-forward layers are 8 d_model wide as in 137B.",
    "137b": "The label leaves out the embeddings; with them 137,702,416,384 is the total that a public implementation declares.",
}


def get_config(size="137b"):
    layers, d_model, heads, head_dim, steps, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 32000,
            d_model=d_model,
            context=64 if tiny else 1024,
            norm="rmsnorm(eps=1e-6)",
            position=f"t5_bias(buckets={16 if tiny else 32}, max_distance={32 if tiny else 128})",
            attention=f"mha(heads={heads}, head_dim={head_dim})",
            mlp="geglu(d_ff=8*d_model)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="fan_in(embedding_std=1.0)" if not tiny else "normal(std=0.02)",
        ),
        # Batch and steps are published; optimizer and rate are those of the T5 lineage.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=steps,
            batch_tokens=250 * 1024,
            optimizer="adafactor(b1=0.0, decay=0.8)",
            schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
        ),
        about=dict(
            paper="Thoppilan et al. 2022, arXiv:2201.08239",
            facts=f"lamda-{size}",
            verified_against="the papers' formulas, written as loops",
            published=published,
            sources=("arXiv:2201.08239, section 3 and Table 27", "tensorflow/lingvo DenseLm128B8x8"),
            unsure=("context", "norm", "optimizer", "schedule", "head", *(() if size == "137b" else ("d_ff", "head_dim"))),
            notes=NOTES.get(size, ""),
        ),
    )
