"""LongNet: a decoder with dilated attention, whose segments grow longer and sparser together, for sequences of any length."""

import math

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, batch tokens, peak learning rate, tokens, published
    "125m": (12, 768, 12, 500_000, 6e-4, 150e9, 125e6),
    "350m": (24, 1024, 16, 500_000, 6e-4, 40e9, 350e6),
    "760m": (24, 1536, 16, 500_000, 6e-4, 40e9, 760e6),
    "2.7b": (32, 2560, 32, 4_000_000, 2e-4, 40e9, 2.7e9),
    "tiny": (2, 64, 4, None, None, None, None),
}


def get_config(size="125m"):
    layers, d_model, heads, batch_tokens, peak, tokens, published = SIZES[size]
    tiny = size == "tiny"
    segments, rates = ((16, 32, 64), (1, 2, 4)) if tiny else ((2048, 4096, 8192, 16384, 32768), (1, 2, 4, 6, 12))
    return experiment(
        model=dict(
            vocab=512 if tiny else 100277,
            d_model=d_model,
            context=64 if tiny else 32768,
            norm="layernorm(eps=1e-5)",
            position=f"xpos(interleaved=True, base={32 if tiny else 512})",
            mask=f"dilated(segments={segments}, rates={rates})",
            attention=f"mha(heads={heads}, bias=True, inner_norm=norm)",
            mlp="gelu(d_ff=4*d_model, bias=True, inner_norm=norm)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"depth_scaled(base=xavier, gain={math.log(2 * layers) ** 0.5:.6f})",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=batch_tokens // 32768 * 32768,
            optimizer="adamw(b1=0.9, b2=0.98, weight_decay=0.01)",
            schedule=f"linear(peak={peak}, warmup='750 steps')",
            clip=2.0,
        ),
        about=dict(
            paper="Ding et al. 2023, arXiv:2307.02486",
            facts=f"longnet-{size}",
            published=published,
            verified_against="the papers' formulas, written as loops",
            sources=("arXiv:2307.02486, section 4 and Tables 3 and 4", "microsoft/torchscale LongNet.py, dilated_attention.py"),
            unsure=(
                "bias",
                "tied_embeddings",
                "vocab",
                "training.tokens",
                "norm.eps",
                "activation",
                "initializer",
                "whether the mixture's weights have a gradient (here they have)",
                "which heads share an offset (here those of one number modulo the rate)",
            ),
            notes="The label is that of the same shape with another vocabulary. Norms stand before each projection (Sub-LN, "
            "arXiv:2210.06423). Segments are counted from the beginning of a document, so that packing changes nothing.",
        ),
    )
