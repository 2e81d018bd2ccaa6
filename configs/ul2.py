"""UL2: T5's structure with SwiGLU, trained on a mixture of denoisers that a mode token names."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # layers of each stack, d_model, heads, head_dim, d_ff
    "20b": (32, 4096, 16, 256, 16384),
    "tiny": (2, 64, 4, 16, 96),
}


def get_config(size="20b"):
    layers, d_model, heads, head_dim, d_ff = SIZES[size]
    tiny = size == "tiny"
    attention = f"mha(heads={heads}, head_dim={head_dim}, scale=1"
    return derived(
        "t5_1_1:tiny" if tiny else "t5_1_1:small",
        model=dict(
            d_model=d_model,
            context=64 if tiny else 512,
            inputs=64 if tiny else 512,
            attention=f"{attention})",
            encoder_attention=f"{attention}, mask=full, position=t5_bias(shared=True, bidirectional=True))",
            cross_attention=f"{attention}, mask=full, position=none, source='encoder')",
            mlp=f"swiglu(d_ff={d_ff})",
            encoder=f"{layers}*reading",
            decoder=f"{layers}*writing",
        ),
        train=dict(TINY_TRAINING, objective="denoisers")
        if tiny
        else dict(
            objective="denoisers",
            steps=2_000_000,
            batch_tokens=1024 * 512,
            optimizer="adafactor",
            schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Tay et al. 2022, arXiv:2205.05131",
            facts=f"ul2-{size}",
            published=None if tiny else 20e9,
            sources=("google/ul2 model card", "arXiv:2205.05131"),
            unsure=("mlp", "head", "training.peak_lr"),
            notes="19.59B; the label is rounded.",
            verified_against="transformers.T5ForConditionalGeneration",
        ),
    )
