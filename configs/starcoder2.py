"""StarCoder2: a code model with rotary positions, grouped keys, and a sliding window of 4096 tokens in every layer."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, kv_heads, rope theta, head, batch tokens, steps, published
SIZES = {
    "3b": (30, 3072, 24, 2, 999999.44, "tied", 2_600_000, 1_200_000, 3e9),
    "7b": (32, 4608, 36, 4, 1e6, "tied", 3_500_000, 1_000_000, 7.2e9),
    "15b": (40, 6144, 48, 4, 1e5, "untied", 4_100_000, 1_000_000, 15e9),
    "tiny": (2, 64, 4, 2, 1e4, "tied", None, None, None),
}
NOTES = {
    "15b": "15.96B parameters with separate tables; the label is a round name.",
}


def get_config(size="3b"):
    layers, d_model, heads, kv_heads, theta, head, batch_tokens, steps, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 49152,
            d_model=d_model,
            context=64 if tiny else 16384,
            norm="layernorm(eps=1e-5)",
            position=f"rope(theta={theta})",
            mask=f"local(window={24 if tiny else 4096})",
            attention=f"gqa(heads={heads}, kv_heads={kv_heads}, bias=True)",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head=head,
            initializer="normal(std=0.02)",
        ),
        # The main run had documents of 4096 tokens and theta 1e5; 200B tokens at 16384 followed.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=steps,
            context=4096,
            batch_tokens=batch_tokens // 4096 * 4096,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='1000 steps', final=0.1)",
        ),
        about=dict(
            paper="Lozhkov et al. 2024, arXiv:2402.19173",
            facts=f"starcoder2-{size}",
            published=published,
            sources=("arXiv:2402.19173, section 6.1", "NVIDIA NeMo llm/gpt/model/starcoder2.py", "the checkpoints' configurations"),
            unsure=("training", "initializer", *(() if size == "15b" else ("head",))),
            notes=NOTES.get(size, ""),
            verified_against="transformers.Starcoder2ForCausalLM",
        ),
    )
