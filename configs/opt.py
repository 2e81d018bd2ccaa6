"""OPT: an open replication of GPT-3 with ReLU layers and full attention in every layer."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, batch tokens, peak learning rate, warmup, published
    "125m": (12, 768, 12, 500_000, 6e-4, "375e6 tokens", 125e6),
    "350m": (24, 1024, 16, 500_000, 3e-4, "375e6 tokens", 350e6),
    "1.3b": (24, 2048, 32, 1_000_000, 2e-4, "375e6 tokens", 1.3e9),
    "2.7b": (32, 2560, 32, 1_000_000, 1.6e-4, "375e6 tokens", 2.7e9),
    "6.7b": (32, 4096, 32, 2_000_000, 1.2e-4, "375e6 tokens", 6.7e9),
    "13b": (40, 5120, 40, 4_000_000, 1e-4, "375e6 tokens", 13e9),
    "30b": (48, 7168, 56, 4_000_000, 1e-4, "375e6 tokens", 30e9),
    "66b": (64, 9216, 72, 2_000_000, 8e-5, "375e6 tokens", 66e9),
    "175b": (96, 12288, 96, 2_000_000, 1.2e-4, "2000 steps", 175e9),
    "tiny": (2, 64, 4, None, None, None, None),
}
NOTES = {
    "350m": "The odd one out: norms after the sublayers, no norm at the end, and tokens of 512 features that one projection "
    "widens and another narrows; 331M parameters.",
    "175b": "The logbook lowers the rate by hand several times after divergences.",
}


def get_config(size="125m"):
    layers, d_model, heads, batch_tokens, peak, warmup, published = SIZES[size]
    tiny = size == "tiny"
    dropout = 0.0 if tiny else 0.1
    std = 0.02 if tiny else 0.006
    return experiment(
        model=dict(
            vocab=512 if tiny else 50272,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="learned(length=context+2, offset=2)",
            embedding="table(width=512)" if size == "350m" else "table",
            attention=f"mha(heads={heads}, bias=True, dropout={dropout})",
            mlp="relu(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"{'post' if size == '350m' else 'pre'}(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"normal(std={std}, residual_std={std}*(2*layers)**-0.5)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=180e9,
            batch_tokens=batch_tokens // 2048 * 2048,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"linear(peak={peak}, warmup='{warmup}', until='300e9 tokens', final=0.1)",
        ),
        about=dict(
            paper="Zhang et al. 2022, arXiv:2205.01068",
            facts=f"opt-{size}",
            published=published,
            sources=("arXiv:2205.01068, Table 1", "facebookresearch/metaseq opt_job_constants.py and opt_baselines.py"),
            unsure=("training.tokens",),
            notes=NOTES.get(size, "The position table has two more rows than positions, its first two."),
            verified_against="transformers.OPTForCausalLM",
        ),
    )
