"""Galactica: a decoder without biases in its projections, trained four times over 106B tokens of science."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, batch tokens, peak learning rate, warmup, published
    "125m": (12, 768, 12, 500_000, 6e-4, "375e6 tokens", 125e6),
    "1.3b": (24, 2048, 32, 1_000_000, 2e-4, "375e6 tokens", 1.3e9),
    "6.7b": (32, 4096, 32, 2_000_000, 1.2e-4, "375e6 tokens", 6.7e9),
    "30b": (48, 7168, 56, 2_000_000, 1e-4, "375e6 tokens", 30e9),
    "120b": (96, 10240, 80, 2_000_000, 7e-6, "1.125e9 tokens", 120e9),
    "tiny": (2, 64, 4, None, None, None, None),
}


def get_config(size="125m"):
    layers, d_model, heads, batch_tokens, peak, warmup, published = SIZES[size]
    tiny = size == "tiny"
    dropout = 0.0 if tiny else 0.1
    std = 0.02 if tiny else 0.006
    return experiment(
        model=dict(
            vocab=512 if tiny else 50000,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="learned(length=context+2, offset=2)",
            attention=f"mha(heads={heads}, dropout={dropout})",
            mlp="gelu(d_ff=4*d_model)",
            blocks=dict(block=f"pre(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"normal(std={std}, residual_std={std}*(2*layers)**-0.5)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=450e9,
            batch_tokens=batch_tokens // 2048 * 2048,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"linear(peak={peak}, warmup='{warmup}', final=0.1)",
        ),
        about=dict(
            paper="Taylor et al. 2022, arXiv:2211.09085",
            facts=f"galactica-{size}",
            published=published,
            sources=("arXiv:2211.09085, Table 5 and section 4", "paperswithcode/galai model card"),
            unsure=("position.offset", "norm.bias", "initializer", *(("schedule.peak",) if size == "120b" else ())),
            notes="The paper has no biases anywhere; the released checkpoints keep those of the norms.",
            verified_against="transformers.OPTForCausalLM",
        ),
    )
