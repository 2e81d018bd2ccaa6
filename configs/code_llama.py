"""Code Llama: Llama 2 trained on with code, to fill gaps, and then on long files with a hundred times the rotary base."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, d_ff, vocab, peak learning rate, tokens, published
    "7b": (32, 4096, 32, 32, 11008, 32016, 3e-4, 500e9, 6.7e9),
    "13b": (40, 5120, 40, 40, 13824, 32016, 3e-4, 500e9, 13e9),
    "34b": (48, 8192, 64, 8, 22016, 32000, 1.5e-4, 500e9, 33.7e9),
    "70b": (80, 8192, 64, 8, 28672, 32016, 1.5e-4, 1e12, 69e9),
    "tiny": (2, 64, 4, 2, 160, 512, None, None, None),
}
NOTES = {
    "34b": "Not trained to fill gaps, hence no tokens for it.",
    "70b": "The Python and Instruct variants kept Llama 2's base and length.",
}


def get_config(size="7b"):
    layers, d_model, heads, kv_heads, d_ff, vocab, peak, tokens, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=64 if tiny else 16384,
            norm="rmsnorm(eps=1e-05)",
            position="rope(theta=10000)" if tiny else "rope(theta=1e6)",
            attention=f"mha(heads={heads})" if kv_heads == heads else f"gqa(heads={heads}, kv_heads={kv_heads})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # The code stage, from Llama 2's weights at length 4096; the long stage was 3000 to 11000 steps at a rate of 2e-5.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            context=4096,
            batch_tokens=1024 * 4096,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-5, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='1000 steps', final=1/30)",
        ),
        about=dict(
            paper="Roziere et al. 2023, arXiv:2308.12950",
            facts=f"code-llama-{size}",
            published=published,
            sources=("arXiv:2308.12950, section 2", "meta-llama/codellama MODEL_CARD.md"),
            unsure=("weight_decay", "clip", *(("context",) if size == "70b" else ())),
            notes=NOTES.get(size, "Nine documents in ten had a gap to fill, half with the suffix first; not in this objective."),
            verified_against="transformers.LlamaForCausalLM",
        ),
    )
