"""Helium: the text backbone of Moshi, a LLaMA whose feed-forward layers are 2.75 times as wide as the stream."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, d_ff, vocab, context
    "7b": (32, 4096, 32, 11264, 32000, 4096),
    "tiny": (2, 64, 4, 176, 512, 64),
}


def get_config(size="7b"):
    layers, d_model, heads, d_ff, vocab, context = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-8)",
            position="rope(interleaved=True)",
            attention=f"mha(heads={heads})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=500_000,
            batch_tokens=1024 * 4096,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Defossez et al. 2024, arXiv:2410.00037",
            facts=f"helium-{size}",
            published=None if tiny else 7e9,
            sources=("arXiv:2410.00037, Table 1", "kyutai-labs/moshi loaders.py, gating.py and rope.py"),
            unsure=("norm.eps", "head", "optimizer", "warmup", "initializer"),
            notes="6.84B parameters; 7B is rounded.",
            verified_against="transformers.HeliumForCausalLM",
        ),
    )
