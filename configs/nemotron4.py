"""Nemotron-4: squared-ReLU layers, layer norms around one, rotary positions on half of each head, a batch in three stages."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, rotary dimensions, initial std, batch in sequences, ramp, tokens, published
SIZES = {
    "15b": (32, 6144, 48, 64, 0.0134, 1152, "stages(first=384, later='768 from 127157, 1152 from 190735')", 8e12, 15.7e9),
    "340b": (96, 18432, 96, 96, 0.0063, 2304, "stages(first=768, later='1536 from 63578, 2304 from 95367')", 9e12, 341e9),
    "tiny": (2, 64, 4, 8, 0.02, None, None, None, None),
}


def get_config(size="15b"):
    layers, d_model, heads, rotary, std, sequences, ramp, tokens, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 256000,
            d_model=d_model,
            context=64 if tiny else 4096,
            norm="layernorm(eps=1e-5, unit_offset=True)",
            position=f"rope(dims={rotary})",
            attention=f"gqa(heads={heads}, kv_heads={1 if tiny else 8})",
            mlp="relu2(d_ff=4*d_model)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer=f"normal(std={std})",
        ),
        # Each of the first two stages took 200B tokens.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=sequences * 4096,
            batch_ramp=ramp,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=1e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Adler et al. 2024, arXiv:2406.11704" if size == "340b" else "Parmar et al. 2024, arXiv:2402.16819",
            facts=f"nemotron-4-{size}",
            published=published,
            sources=("NVIDIA NeMo llm/gpt/model/nemotron.py", "arXiv:2402.16819", "arXiv:2406.11704"),
            unsure=("optimizer", "schedule") if size == "15b" else ("optimizer", "schedule", "batch_ramp", "tokens"),
            notes="The last of the tokens were a continued training on a better mixture with a steeper fall of the rate.",
            verified_against="transformers.NemotronForCausalLM",
        ),
    )
