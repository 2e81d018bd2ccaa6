"""Magistral: Mistral Small 3.1 taught to reason, first by a larger model's traces, then by reinforcement on checked answers."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, head_dim, d_ff, vocab, context
    "small-24b": (40, 5120, 32, 8, 128, 32768, 131072, 131072),
    "tiny": (2, 64, 4, 1, 12, 256, 512, 64),
}


def get_config(size="small-24b"):
    layers, d_model, heads, kv_heads, head_dim, d_ff, vocab, context = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position="rope(theta=1e9)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads}, head_dim={head_dim})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # Neither the base's training nor the size of these stages is public; the numbers are placeholders.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=1000,
            context=32768,
            batch_tokens=64 * 32768,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=1e-5, warmup='3%')",
        ),
        about=dict(
            paper="Mistral AI 2025, arXiv:2506.10910",
            facts=f"magistral-{size}",
            published=None if tiny else 23.6e9,
            sources=("arXiv:2506.10910", "configurations of Mistral Small 3.1 and Magistral Small"),
            unsure=("training", "which Mistral Small 3 is the base", "initializer"),
            notes="Reinforcement (GRPO without the KL term, a larger upper clip, advantages normalised in the minibatch) is not "
            "described here. Heads times head_dim is 4096, not d_model.",
            verified_against="transformers.LlamaForCausalLM",
        ),
    )
