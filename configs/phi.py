"""Phi: small parallel-block decoders with rotary positions on part of each head, trained on textbook-like synthetic data."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, rotary dimensions, tokens, published
    "1.5": (24, 2048, 32, 32, 150e9, 1.3e9),
    "2": (32, 2560, 32, 32, 1.4e12, 2.7e9),
    "tiny": (2, 64, 4, 8, None, None),
}


def get_config(size="1.5"):
    layers, d_model, heads, rotary, tokens, published = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 51200,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position=f"rope(dims={rotary})",
            attention=f"mha(heads={heads}, bias=True)",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="parallel(attention, mlp)"),
            decoder=f"{layers}*block",
            head="untied(bias=True)",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=2048 * 2048,
            optimizer="adamw(b1=0.9, b2=0.98, eps=1e-7, weight_decay=0.1)",
            schedule="constant(peak=2e-4)",
        ),
        about=dict(
            paper="Li et al. 2023, arXiv:2309.05463" if size == "1.5" else "Javaheripi & Bubeck 2023, Phi-2",
            facts=f"phi-{size}",
            published=published,
            sources=("arXiv:2309.05463, section 2.3", "transformers configurations of the released checkpoints"),
            unsure=("initializer", "clip") if size == "1.5" else ("initializer", "training"),
            notes="The quoted size counts one of the two separate tables of 51200 rows, which are padded from 50257.",
            verified_against="transformers.PhiForCausalLM",
        ),
    )
