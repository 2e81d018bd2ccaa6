"""SmolLM3: grouped keys, tied tables, and no positions at all in every fourth layer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers in order, d_model, heads, kv_heads, d_ff, vocab, context
    "3b": ("9*(3*full + nope)", 2048, 16, 4, 11008, 128256, 65536),
    "tiny": ("3*full + nope", 64, 4, 1, 344, 512, 64),
}


def get_config(size="3b"):
    decoder, d_model, heads, kv_heads, d_ff, vocab, context = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6)",
            position="rope(theta=5e6)",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads})",
            nope_attention=f"gqa(heads={heads}, kv_heads={kv_heads}, position=none)",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(full="pre(attention, mlp)", nope="pre(nope_attention, mlp)"),
            decoder=decoder,
            head="tied",
            initializer="normal(std=0.02)",
        ),
        # Documents of 4096 tokens and theta 5e4 in this run; two stages of 50B tokens each grew both.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=11.2e12,
            context=4096,
            batch_tokens=576 * 4096,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule="wsd(peak=2e-4, warmup='2000 steps', decay='10%')",
        ),
        about=dict(
            paper="Bakouch et al. 2025, SmolLM3",
            facts=f"smollm3-{size}",
            published=None if tiny else 3.08e9,
            sources=("huggingface/smollm text/pretraining/smollm3",),
            unsure=("training.tokens", "initializer"),
            notes="The token table was not decayed; here it is.",
            verified_against="transformers.SmolLM3ForCausalLM",
        ),
    )
