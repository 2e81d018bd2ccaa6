"""Persimmon: squared-ReLU layers, norms on queries and keys, rotary positions on half of each head, 16384 tokens throughout."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, rotary dimensions
    "8b": (36, 4096, 64, 32),
    "tiny": (2, 64, 4, 8),
}


def get_config(size="8b"):
    layers, d_model, heads, rotary = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 262144,
            d_model=d_model,
            context=64 if tiny else 16384,
            norm="layernorm(eps=1e-5)",
            position=f"rope(theta=25000, dims={rotary})",
            attention=f"mha(heads={heads}, bias=True, qk_norm=norm)",
            mlp="relu2(d_ff=4*d_model, bias=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # Only the tokens and their length are published.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=737e9,
            batch_tokens=256 * 16384,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=1.2e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Elsen et al. 2023, Releasing Persimmon-8B",
            facts=f"persimmon-{size}",
            published=None if tiny else 8e9,
            sources=("adept.ai/blog/persimmon-8b", "persimmon-ai-labs/adept-inference", "transformers configuration"),
            unsure=("training", "position.theta", "initializer"),
            notes="9.40B parameters, 1.07B in each of two tables, about 70,000 of whose rows are reserved; the label counts one.",
            verified_against="transformers.PersimmonForCausalLM",
        ),
    )
