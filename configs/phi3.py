"""Phi-3: a LLaMA of textbook-like data; the small size scales by width, clamps its gate, and is sparse in every other layer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, d_ff, vocab, context, tokens, published
    "mini": (32, 3072, 32, 32, 8192, 32064, 4096, 3.3e12, 3.8e9),
    "small": (32, 4096, 32, 8, 14336, 100352, 8192, 4.8e12, 7e9),
    "medium": (40, 5120, 40, 10, 17920, 32064, 4096, 4.8e12, 14e9),
    "tiny": (2, 64, 4, 2, 160, 512, 64, None, None),
}
NOTES = {
    "small": "7.39B parameters; 7B is rounded. The sparse layers see 16 blocks of 64 tokens and, which this page cannot say, every "
    "eighth block before them, shifted by head.",
}


def sentences(size, layers, heads, kv_heads, d_ff):
    """What the small size does differently."""
    gqa = f"gqa(heads={heads}, kv_heads={kv_heads}"
    if size == "small":
        return dict(
            norm="layernorm(eps=1e-5)",
            position="rope(theta=1e6)",
            embedding="table(scale=10.0, dropout=0.1)",
            attention=f"{gqa}, bias=True, scale=1/head_dim)",
            sparse_attention=f"{gqa}, bias=True, scale=1/head_dim, mask=local(window=16*64))",
            mlp=f"clamped_swiglu(d_ff={d_ff}, limit=20.0, bias=True)",
            blocks=dict(sparse="pre(sparse_attention, mlp, dropout=0.1)", dense="pre(attention, mlp, dropout=0.1)"),
            decoder=f"{layers // 2}*(sparse + dense)",
            head="tied(scale=1/8)",
        )
    return dict(
        norm="rmsnorm(eps=1e-5)",
        position="rope",
        mask=f"local(window={24 if size == 'tiny' else 2047})",
        attention=f"mha(heads={heads})" if heads == kv_heads else f"{gqa})",
        mlp=f"swiglu(d_ff={d_ff})",
        blocks=dict(block="pre(attention, mlp)"),
        decoder=f"{layers}*block",
        head="untied",
    )


def get_config(size="mini"):
    layers, d_model, heads, kv_heads, d_ff, vocab, context, tokens, published = SIZES[size]
    model = dict(vocab=vocab, d_model=d_model, context=context, initializer="normal(std=0.02)")
    return experiment(
        model=model | sentences(size, layers, heads, kv_heads, d_ff),
        # Only the tokens are published.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=tokens,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Abdin et al. 2024, arXiv:2404.14219",
            facts=f"phi-3-{size}",
            published=published,
            sources=("arXiv:2404.14219", "configurations of the released checkpoints"),
            unsure=("training", "dropout", "initializer", "head", "attention.scale")
            if size == "small"
            else ("training", "initializer"),
            notes=NOTES.get(size, "The paper does not mention the window of 2047 tokens that the released configuration has."),
            verified_against="" if size == "small" else "transformers.MistralForCausalLM",
        ),
    )
