"""Chinchilla: Gopher's architecture at a quarter of the size on four times the data, and the models that said so."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, head_dim
    "70b": (80, 8192, 64, 128),
    "sweep-44m": (8, 512, 8, 64),
    "sweep-57m": (9, 576, 9, 64),
    "sweep-74m": (10, 640, 10, 64),
    "sweep-90m": (13, 640, 10, 64),
    "sweep-106m": (16, 640, 10, 64),
    "sweep-117m": (12, 768, 12, 64),
    "sweep-140m": (15, 768, 12, 64),
    "sweep-163m": (18, 768, 12, 64),
    "sweep-175m": (14, 896, 14, 64),
    "sweep-196m": (16, 896, 14, 64),
    "sweep-217m": (18, 896, 14, 64),
    "sweep-251m": (16, 1024, 16, 64),
    "sweep-278m": (18, 1024, 16, 64),
    "sweep-306m": (20, 1024, 16, 64),
    "sweep-425m": (18, 1280, 10, 128),
    "sweep-489m": (21, 1280, 10, 128),
    "sweep-509m": (18, 1408, 11, 128),
    "sweep-552m": (24, 1280, 10, 128),
    "sweep-587m": (21, 1408, 11, 128),
    "sweep-632m": (19, 1536, 12, 128),
    "sweep-664m": (24, 1408, 11, 128),
    "sweep-724m": (22, 1536, 12, 128),
    "sweep-816m": (25, 1536, 12, 128),
    "sweep-893m": (20, 1792, 14, 128),
    "sweep-1018m": (23, 1792, 14, 128),
    "sweep-1143m": (26, 1792, 14, 128),
    "sweep-1266m": (22, 2048, 16, 128),
    "sweep-1424m": (22, 2176, 17, 128),
    "sweep-1429m": (25, 2048, 16, 128),
    "sweep-1593m": (28, 2048, 16, 128),
    "sweep-1609m": (25, 2176, 17, 128),
    "sweep-1731m": (24, 2304, 18, 128),
    "sweep-1794m": (28, 2176, 17, 128),
    "sweep-2007m": (28, 2304, 18, 128),
    "sweep-2283m": (32, 2304, 18, 128),
    "sweep-2298m": (26, 2560, 20, 128),
    "sweep-2639m": (30, 2560, 20, 128),
    "sweep-2980m": (34, 2560, 20, 128),
    "sweep-3530m": (36, 2688, 22, 128),
    "sweep-3802m": (36, 2816, 22, 128),
    "sweep-4084m": (36, 2944, 22, 128),
    "sweep-4516m": (36, 3072, 24, 128),
    "sweep-6796m": (40, 3584, 28, 128),
    "sweep-9293m": (42, 4096, 32, 128),
    "sweep-11452m": (47, 4352, 32, 128),
    "sweep-12295m": (44, 4608, 36, 128),
    "sweep-12569m": (47, 4608, 32, 128),
    "sweep-13735m": (47, 4864, 32, 128),
    "sweep-14940m": (49, 4992, 32, 128),
    "sweep-16183m": (47, 5120, 40, 128),
    "tiny": (2, 64, 4, 16),
}
# Few details of the sweep are published: rates from 2e-4 for the smallest to 1.25e-4 for the largest, 5e9 to 500e9 tokens.
UNSURE = ("activation", "bias", "norm.eps", "head", "optimizer", "warmup", "initializer")


def get_config(size="70b"):
    layers, d_model, heads, head_dim = SIZES[size]
    tiny, sweep = size == "tiny", size.startswith("sweep")
    published = None if tiny else float(size.removeprefix("sweep-")[:-1]) * (1e6 if sweep else 1e9)
    return experiment(
        model=dict(
            vocab=512 if tiny else 32000,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="rmsnorm(eps=1e-6)",
            position="transformer_xl",
            attention=f"mha(heads={heads}, head_dim={head_dim})",
            mlp="gelu(d_ff=4*d_model)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="fan_in(embedding_std=0.02)",
        ),
        # 70B: 1.5M tokens a batch, 3M from the middle on. Sweep: 20 tokens for each parameter, where the compute-optimal line is.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=20 * published if sweep else 1.4e12,
            batch_tokens=256 * 2048 if sweep else 3_000_000 // 2048 * 2048,
            batch_ramp=None if sweep else "linear(start=1.5e6, over='700e9 tokens', increments=1)",
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule=f"cosine(peak={1e-4 if not sweep else 2e-4 if published < 2e9 else 1.25e-4}, warmup='1500 steps', final=0.1)",
        ),
        about=dict(
            paper="Hoffmann et al. 2022, arXiv:2203.15556",
            facts=f"chinchilla-{size}",
            verified_against="the papers' formulas, written as loops",
            published=published,
            sources=("arXiv:2203.15556, Table 4 and Table A9",),
            unsure=(*UNSURE, "training") if sweep else UNSURE,
            notes="The published sizes need the relative projection of every layer.",
        ),
    )
