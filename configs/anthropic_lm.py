"""Anthropic LM: the decoders of Anthropic's alignment studies, 128 times as wide as deep, with a context of 8192 tokens."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, batch tokens, peak learning rate, tokens, published (without embeddings)
    "13m": (4, 524_288, 6e-4, 400e9, 13e6),
    "42m": (6, 524_288, 6e-4, 400e9, 42e6),
    "197m": (10, 524_288, 6e-4, 400e9, 197e6),
    "810m": (16, 524_288, 2.5e-4, 400e9, 810e6),
    "2.7b": (24, 1_048_576, 1.6e-4, 400e9, 2.7e9),
    "13b": (40, 2_097_152, 1e-4, 400e9, 13e9),
    "52b": (64, 2_097_152, 1e-4, 400e9, 52e9),
    "tiny": (2, None, None, None, None),
}


def get_config(size="13m"):
    layers, batch_tokens, peak, tokens, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 65536,
            d_model=64 if tiny else 128 * layers,
            context=64 if tiny else 8192,
            norm="layernorm(eps=1e-5, bias=False)",
            position="rope",
            attention=f"mha(heads={layers})",
            mlp="gelu(d_ff=4*d_model)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5)",
        ),
        # Only the tokens are published (later runs of 52B took 850e9); GPT-3's batches and rates of the nearest sizes stand in.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=batch_tokens,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='375e6 tokens', final=0.1)",
        ),
        about=dict(
            paper="Askell et al. 2021, arXiv:2112.00861",
            facts=f"anthropic-lm-{size}",
            verified_against="the papers' formulas, written as loops",
            published=published,
            sources=("arXiv:2112.00861, section 2 and appendix", "Bai et al. 2022, arXiv:2204.05862"),
            unsure=("layers", "d_model", "heads", "norm", "position", "activation", "bias", "head", "training"),
            notes="The labels count 12 layers d_model^2: no embeddings (65536 d_model) and no norms (2 layers d_model + d_model), "
            "which are counted here. Width and depth follow from the seven labels.",
        ),
    )
