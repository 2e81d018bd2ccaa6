"""LLaMA 1, 2 and 3: pre-norm decoders with RMS norms, SwiGLU and rotary positions; grouped keys in the larger and later ones."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, kv_heads, d_ff, vocab, context, rope theta, norm eps, peak learning rate, tokens, published
SIZES = {
    "1-7b": (32, 4096, 32, 32, 11008, 32000, 2048, 1e4, 1e-6, 3e-4, 1e12, 6.7e9),
    "1-13b": (40, 5120, 40, 40, 13824, 32000, 2048, 1e4, 1e-6, 3e-4, 1e12, 13e9),
    "1-33b": (60, 6656, 52, 52, 17920, 32000, 2048, 1e4, 1e-5, 1.5e-4, 1.4e12, 32.5e9),
    "1-65b": (80, 8192, 64, 64, 22016, 32000, 2048, 1e4, 1e-5, 1.5e-4, 1.4e12, 65.2e9),
    "2-7b": (32, 4096, 32, 32, 11008, 32000, 4096, 1e4, 1e-5, 3e-4, 2e12, 6.7e9),
    "2-13b": (40, 5120, 40, 40, 13824, 32000, 4096, 1e4, 1e-5, 3e-4, 2e12, 13e9),
    "2-70b": (80, 8192, 64, 8, 28672, 32000, 4096, 1e4, 1e-5, 1.5e-4, 2e12, 69e9),
    "3-8b": (32, 4096, 32, 8, 14336, 128256, 8192, 5e5, 1e-5, 3e-4, 15e12, 8e9),
    "3-70b": (80, 8192, 64, 8, 28672, 128256, 8192, 5e5, 1e-5, 1.5e-4, 15e12, 70.6e9),
    "3.1-8b": (32, 4096, 32, 8, 14336, 128256, 131072, 5e5, 1e-5, 3e-4, 15e12, 8e9),
    "3.1-70b": (80, 8192, 64, 8, 28672, 128256, 131072, 5e5, 1e-5, 1.5e-4, 15e12, 70.6e9),
    "3.1-405b": (126, 16384, 128, 8, 53248, 128256, 131072, 5e5, 1e-5, 8e-5, 15.6e12, 405e9),
    "3.2-1b": (16, 2048, 32, 8, 8192, 128256, 131072, 5e5, 1e-5, 3e-4, 9e12, 1.23e9),
    "3.2-3b": (28, 3072, 24, 8, 8192, 128256, 131072, 5e5, 1e-5, 3e-4, 9e12, 3.21e9),
    "tiny": (2, 64, 4, 2, 160, 512, 64, 1e4, 1e-5, 3e-3, None, None),
}
PAPERS = {
    "1": "Touvron et al. 2023, arXiv:2302.13971",
    "2": "Touvron et al. 2023, arXiv:2307.09288",
    "3": "Grattafiori et al. 2024, arXiv:2407.21783",
}
UNSURE = {"1": ("norm.eps",), "2": (), "3": ("training",), "3.1": ("optimizer", "clip"), "3.2": ("training",)}
# Versions 3.1 and 3.2 stretch the long wavelengths for contexts past 8192, the length of their main runs.
SCALING = {
    "3.1": ", scaling=by_parts(factor=8, low=1, high=4, original_context=8192)",
    "3.2": ", scaling=by_parts(factor=32, low=1, high=4, original_context=8192)",
}
# The batch of 405B: 4M tokens at first, 8M after 252M tokens, 16M after 2.87T.
LARGEST = dict(
    batch_tokens=2048 * 8192,
    batch_ramp="stages(first=512, later='1024 from 60, 2048 from 342160')",
    schedule="cosine(peak=8e-5, warmup='8000 steps', until='1200000 steps', final=0.01)",
)
NOTES = {
    "3.2": " Cut out of the 8B model of 3.1, then trained on towards the predictions of the 8B and 70B models.",
}


def get_config(size="1-7b"):
    layers, d_model, heads, kv_heads, d_ff, vocab, context, theta, eps, peak, tokens, published = SIZES[size]
    version = "3" if size == "tiny" else size.split("-")[0]
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm=f"rmsnorm(eps={eps})",
            position=f"rope(theta={theta:.0f}{SCALING.get(version, '')})",
            attention=f"mha(heads={heads})" if kv_heads == heads else f"gqa(heads={heads}, kv_heads={kv_heads})",
            mlp=f"swiglu(d_ff={d_ff})",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied" if version == "3.2" else "untied",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=tokens,
            context=8192 if context > 8192 else None,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-5, weight_decay=0.1)",
            **dict(batch_tokens=4_194_304, schedule=f"cosine(peak={peak}, warmup='2000 steps', final=0.1)")
            | (LARGEST if size == "3.1-405b" else {}),
        ),
        about=dict(
            paper=PAPERS[version[0]],
            facts=f"llama-{size}",
            published=published,
            sources=("meta-llama model cards and model.py", "transformers configurations of the released checkpoints"),
            unsure=(*UNSURE[version], "initializer"),
            notes="Rotary pairs are (i, i + head_dim/2), as in the released Hugging Face checkpoints; the original code's "
            "neighbouring pairs are the same function with query and key features permuted." + NOTES.get(version, ""),
            verified_against="transformers.LlamaForCausalLM",
        ),
    )
