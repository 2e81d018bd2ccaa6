"""Mistral: a LLaMA with grouped keys and a sliding window of 4096 tokens in every layer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, d_ff, window, vocab, context
    "7b": (32, 4096, 32, 8, 14336, 4096, 32000, 8192),
    "tiny": (2, 64, 4, 2, 224, 24, 512, 64),
}


def get_config(size="7b"):
    layers, d_model, heads, kv_heads, d_ff, window, vocab, context = SIZES[size]
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position="rope",
            mask=f"local(window={window})",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # No recipe was published; that of LLaMA 2 stands in.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=2e12,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-5, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Jiang et al. 2023, arXiv:2310.06825",
            facts=f"mistral-{size}",
            published=None if size == "tiny" else 7.3e9,
            sources=("arXiv:2310.06825, Table 1", "transformers configuration of the released checkpoint"),
            unsure=("training", "initializer"),
            notes="Version 0.1. Version 0.2 dropped the window for theta 1e6 and 32768 positions; 0.3 has a vocabulary of 32768.",
            verified_against="transformers.MistralForCausalLM",
        ),
    )
