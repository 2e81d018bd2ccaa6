"""Jurassic-1: GPT-3's recipe with fewer layers for the width and a vocabulary of whole words and phrases."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, batch tokens, peak learning rate, published
    "large": (32, 4096, 32, 2_000_000, 1.2e-4, 7.5e9),
    "jumbo": (76, 13824, 96, 3_200_000, 6e-5, 178e9),
    "tiny": (2, 64, 4, 1024, None, None),
}


def get_config(size="large"):
    layers, d_model, heads, batch_tokens, peak, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 262144,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="learned",
            attention=f"mha(heads={heads}, bias=True)",
            mlp="gelu(d_ff=4*d_model, bias=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=300e9,
            batch_tokens=batch_tokens // 2048 * 2048,
            batch_ramp="linear(start=32e3, over='4e9 tokens')",
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='375e6 tokens', until='260e9 tokens', final=0.1)",
        ),
        about=dict(
            paper="Lieber et al. 2021, Jurassic-1: Technical Details and Evaluation",
            facts=f"jurassic-1-{size}",
            published=published,
            sources=("the white paper, Table 1 and sections 2.1 to 2.3",),
            unsure=(
                "position",
                "activation",
                "bias",
                "norm.eps",
                "head",
                "vocab",
                "d_ff",
                "schedule",
                "batch_ramp",
                "weight_decay",
            ),
            notes="The paper calls the block GPT-2's. Its 3.6B parameters of embeddings need 262144 rows, which it prints as 256K.",
            verified_against="transformers.GPT2LMHeadModel",
        ),
    )
