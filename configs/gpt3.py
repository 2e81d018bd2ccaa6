"""GPT-3: GPT-2 with alternating dense and locally banded attention, and a batch that grows."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, batch tokens, peak learning rate, batch ramp in tokens
    "125m": (12, 768, 12, 500_000, 6e-4, 4e9),
    "350m": (24, 1024, 16, 500_000, 3e-4, 4e9),
    "760m": (24, 1536, 16, 500_000, 2.5e-4, 4e9),
    "1.3b": (24, 2048, 16, 1_000_000, 2e-4, 6e9),
    "2.7b": (32, 2560, 32, 1_000_000, 1.6e-4, 6e9),
    "6.7b": (32, 4096, 32, 2_000_000, 1.2e-4, 10e9),
    "13b": (40, 5120, 40, 2_000_000, 1e-4, 10e9),
    "175b": (96, 12288, 96, 3_200_000, 6e-5, 12e9),
    "tiny": (4, 64, 4, 1024, 3e-3, None),
}
NOTES = {
    "1.3b": "Table 2.1 prints 24 heads of 128 for width 2048; 16 heads make the width and the label agree.",
    "13b": "Table 2.1 prints d_model 5140, which 40 heads of 128 do not give; 5120 does.",
}


def get_config(size="125m"):
    layers, d_model, heads, batch_tokens, peak, ramp = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 50257,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="learned",
            attention=f"mha(heads={heads}, bias=True)",
            banded_attention=f"mha(heads={heads}, bias=True, mask=local(window=context/8))",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(dense="pre(attention, mlp)", banded="pre(banded_attention, mlp)"),
            decoder=f"{layers // 2}*(dense + banded)",
            head="tied",
            initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5, position_std=0.01)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=300e9,
            batch_tokens=batch_tokens // 2048 * 2048,
            batch_ramp=f"linear(start=32e3, over='{ramp:g} tokens')",
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='375e6 tokens', until='260e9 tokens', final=0.1)",
        ),
        about=dict(
            paper="Brown et al. 2020, arXiv:2005.14165",
            facts=f"gpt-3-{size}",
            verified_against="the papers' formulas, written as loops",
            published=None if tiny else float(size[:-1]) * (1e9 if size.endswith("b") else 1e6),
            sources=("arXiv:2005.14165, Table 2.1 and Appendix B", "facebookresearch/metaseq opt_job_constants.py"),
            unsure=(
                "activation",
                "bias",
                "norm.eps",
                "attention.bandwidth",
                "tied_embeddings",
                "which layer comes first",
                "batch_ramp within 4e9 to 12e9 tokens",
            ),
            notes=NOTES.get(size, ""),
        ),
    )
