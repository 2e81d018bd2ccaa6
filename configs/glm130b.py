"""GLM-130B: a bilingual prefix decoder with DeepNorm, GEGLU and rotary positions, trained to fill blanks."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, d_ff
    "130b": (70, 12288, 96, 32768),
    "tiny": (2, 64, 4, 160),
}


def get_config(size="130b"):
    layers, d_model, heads, d_ff = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 150528,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="rope",
            mask="prefix",
            # The norm of the first layer's input; a layer's second norm is the input norm of the next.
            embedding="table(norm=norm)",
            attention=f"mha(heads={heads}, bias=True, dropout={0.0 if tiny else 0.1})",
            mlp=f"geglu(d_ff={d_ff}, bias=True, approximate=True)",
            blocks=dict(
                block=f"deepnorm(attention, mlp, alpha=(2*layers)**0.5, beta=(2*layers)**-0.5, dropout={0.0 if tiny else 0.1})"
            ),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02)" if tiny else "normal(std=0.0052)",
        ),
        # Sequences: 192 at first, 24 more at a time over the first 5,493,164, 4224 in the end.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=400e9,
            batch_tokens=4224 * 2048,
            batch_ramp=f"linear(start={192 * 2048}, over='{5_493_164 * 2048} tokens', increments=168)",
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"cosine(peak=8e-5, warmup='{1_098_632 * 2048} tokens', until='{197_753_905 * 2048} tokens', final=0.1)",
        ),
        about=dict(
            paper="Zeng et al. 2022, arXiv:2210.02414",
            facts=f"glm-{size}",
            verified_against="the papers' formulas, written as loops",
            published=None if tiny else 130e9,
            sources=(
                "THUDM/SwissArmyTransformer glm130B_model.py",
                "THUDM/GLM-130B configs and logs",
                "arXiv:2210.02414, Table 11",
            ),
            unsure=("beta",),
            notes="Blank infilling (95%) and instructions (5%) are not in this objective: where no prefix is marked, the mask is "
            "causal. Gradients of the token table were shrunk to a tenth.",
        ),
    )
