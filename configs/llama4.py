"""Llama 4: one expert beside a shared one, chunks of attention with rotary positions, and every fourth layer full without them."""

from taxonomy.config import TINY_TRAINING, experiment

# layers in order, d_model, heads, kv_heads, d_ff (dense and expert), experts, chunk, vocab, context, tokens, published
SIZES = {
    "scout": ("12*(3*local + full)", 5120, 40, 8, (16384, 8192), 16, 8192, 202048, 10485760, 40e12, 109e9),
    "maverick": (
        "12*(dense_local + local + dense_local + full)",
        5120,
        40,
        8,
        (16384, 8192),
        128,
        8192,
        202048,
        1048576,
        22e12,
        400e9,
    ),
    "tiny": ("dense_local + 2*local + full", 64, 4, 2, (192, 96), 4, 16, 512, 64, None, None),
}
# Scout stretches the long wavelengths, and norms queries and keys.
ROPE = {"scout": ", scaling=by_parts(factor=16, low=1, high=1, original_context=8192)"}
NORMED = ", qk_norm=rmsnorm(eps=1e-5, gain=False), qk_norm_after_position=True"


def get_config(size="scout"):
    decoder, d_model, heads, kv_heads, (d_ff, d_expert), experts, chunk, vocab, context, tokens, published = SIZES[size]
    attention, expert = f"gqa(heads={heads}, kv_heads={kv_heads}", f"swiglu(d_ff={d_expert})"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-5)",
            position=f"rope(theta=500000, interleaved=True{ROPE.get(size, '')})",
            attention=f"{attention}{'' if size == 'maverick' else NORMED}, mask=chunks(size={chunk}))",
            full_attention=f"{attention}, position=none, temperature=log_position(scale=0.1, floor={chunk}))",
            **({} if size == "scout" else dict(mlp=f"swiglu(d_ff={d_ff})")),
            moe=f"moe(experts={experts}, top_k=1, router=sigmoid, expert={expert}, shared={expert}, weigh='input')",
            blocks=dict(
                **({} if size == "scout" else dict(dense_local="pre(attention, mlp)")),
                local="pre(attention, moe)",
                full="pre(full_attention, moe)",
            ),
            decoder=decoder,
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # Only the tokens are published, and that widths share rates that were found for small ones.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=tokens,
            context=8192,
            batch_tokens=4_194_304,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Meta AI 2025, The Llama 4 herd",
            facts=f"llama-4-{size}-17b-{experts}e",
            published=published,
            sources=("meta-llama/llama-models models/llama4 model.py and moe.py", "transformers llama4"),
            unsure=("training", "initializer", "temperature", "router.balance"),
            notes="The text decoder only: the published size includes a vision encoder of 850,960,896 weights and its projector.",
            verified_against="transformers.Llama4ForCausalLM",
        ),
    )
