"""Falcon: parallel blocks without biases, rotary positions, and one key-value head, or one for each shard of the larger models."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, kv_heads, norms of a block, peak rate, final, batch in sequences, ramp in tokens, tokens, published
SIZES = {
    "7b": (32, 4544, 71, 1, 1, 6e-4, 0.02, 2304, 30e9, 1.5e12, 7e9),
    "40b": (60, 8192, 128, 8, 2, 1.85e-4, 0.1, 1152, 100e9, 1e12, 40e9),
    "180b": (80, 14848, 232, 8, 2, 1.25e-4, 0.1, 2048, 100e9, 3.5e12, 180e9),
    "tiny": (2, 64, 4, 2, 2, None, None, None, None, None, None),
}
NOTES = {
    "7b": "The label is rounded up from 6.92B: tables are tied.",
    "40b": "The label is rounded down from 41.3B.",
}


def get_config(size="7b"):
    layers, d_model, heads, kv_heads, norms, peak, final, sequences, ramp, tokens, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 65024,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="rope",
            attention=f"mqa(heads={heads})" if kv_heads == 1 else f"gqa(heads={heads}, kv_heads={kv_heads})",
            mlp="gelu(d_ff=4*d_model)",
            blocks=dict(block=f"parallel(attention, mlp, shared_norm={norms == 1})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=sequences * 2048,
            batch_ramp=f"linear(start={32 * 2048}, over='{ramp:g} tokens')",
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='4e9 tokens', final={final})",
            loss="cross_entropy(z=1e-4)",
        ),
        about=dict(
            paper="Almazrouei et al. 2023, arXiv:2311.16867",
            facts=f"falcon-{size}",
            published=published,
            sources=("the model cards", "arXiv:2311.16867", "transformers configurations of the released checkpoints"),
            unsure=("optimizer.b1 and b2", "clip", "start of batch_ramp", "initializer"),
            notes=NOTES.get(size, ""),
            verified_against="transformers.FalconForCausalLM",
        ),
    )
