"""GPT-J: attention and feed-forward side by side after one norm, rotary positions on a quarter of each head."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, rotary dimensions
    "6b": (28, 4096, 16, 64),
    "tiny": (2, 64, 4, 8),
}


def get_config(size="6b"):
    layers, d_model, heads, rotary = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 50400,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position=f"rope(dims={rotary}, interleaved=True)",
            attention=f"mha(heads={heads})",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="parallel(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied(bias=True)",
            initializer="normal(std=0.02)" if tiny else "fan_in(embedding_std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=383_500,
            batch_tokens=512 * 2048,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule="cosine(peak=1.2e-4, warmup='3000 steps', until='303000 steps', final=0.1)",
        ),
        about=dict(
            paper="Wang & Komatsuzaki 2021, GPT-J-6B",
            facts=f"gpt-j-{size}",
            published=None if tiny else 6053381344.0,
            sources=("kingoflolz/mesh-transformer-jax README and configs/6B_roto_256.json",),
            unsure=("training.betas", "training.clip", "initializer"),
            notes="The README's count is 0.04% above the checkpoint's.",
            verified_against="transformers.GPTJForCausalLM",
        ),
    )
