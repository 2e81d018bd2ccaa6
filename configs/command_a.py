"""Command A: Command R with three windowed rotary layers to each full layer, which has no positions."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers in order, d_model, heads, kv_heads, d_ff, window, vocab, context
    "111b": ("16*(3*local + full)", 12288, 96, 8, 36864, 4096, 256000, 262144),
    "reasoning": ("16*(3*local + full)", 12288, 96, 8, 36864, 4096, 256000, 262144),
    "tiny": ("3*local + full", 64, 4, 2, 192, 16, 512, 64),
}


def get_config(size="111b"):
    decoder, d_model, heads, kv_heads, d_ff, window, vocab, context = SIZES[size]
    tiny = size == "tiny"
    attention = f"gqa(heads={heads}, kv_heads={kv_heads}"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="layernorm(eps=1e-5, bias=False)",
            position="rope(theta=50000, interleaved=True)",
            attention=f"{attention}, mask=local(window={window}))",
            full_attention=f"{attention}, position=none)",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(local="parallel(attention, mlp)", full="parallel(full_attention, mlp)"),
            decoder=decoder,
            head="tied(scale=1/4)",
            initializer="normal(std=0.02)",
        ),
        # Nothing about the pre-training is published; the numbers are placeholders.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=1e12,
            context=8192,
            batch_tokens=512 * 8192,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=1e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Cohere 2025, arXiv:2504.00698",
            facts=f"command-a-{size}",
            verified_against="transformers.Cohere2ForCausalLM",
            published=111e9 if size == "111b" else None,
            sources=("transformers cohere2", "arXiv:2504.00698"),
            unsure=("layers", "d_model", "heads", "d_ff", "head.scale", "position.theta", "training", "initializer"),
            notes="Trained on from the 111b model, whose architecture it keeps."
            if size == "reasoning"
            else "The published model merges the weights of several experts.",
        ),
    )
