"""Mixtral: Mistral with eight experts in every layer, of which a token uses two."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, kv_heads, d_ff, experts, vocab, context, published
    "8x7b": (32, 4096, 32, 8, 14336, 8, 32000, 32768, 46.7e9),
    "8x22b": (56, 6144, 48, 8, 16384, 8, 32768, 65536, 141e9),
    "tiny": (2, 64, 4, 2, 96, 4, 512, 64, None),
}


def get_config(size="8x7b"):
    layers, d_model, heads, kv_heads, d_ff, experts, vocab, context, published = SIZES[size]
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position="rope(theta=1e6)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads})",
            moe=f"moe(experts={experts}, top_k=2, router=softmax(renormalize=True, balance=0.02*top_k/layers), "
            f"expert=swiglu(d_ff={d_ff}))",
            blocks=dict(block="pre(attention, moe)"),
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
            paper="Jiang et al. 2024, arXiv:2401.04088",
            facts=f"mixtral-{size}",
            published=published,
            sources=("arXiv:2401.04088, Table 1", "transformers configurations of the released checkpoints"),
            unsure=("training", "balance: of the released configuration", "initializer"),
            notes="The paper counts 13B active parameters of 47B for 8x7b. The first upload of 8x22b had a vocabulary of 32000.",
            verified_against="transformers.MixtralForCausalLM",
        ),
    )
