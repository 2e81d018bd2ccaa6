"""StarCoder: a GPT-2 for source code with one key-value head and 8192 learned positions, trained to fill in the middle."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, dropout
    "15.5b": (40, 6144, 48, 0.1),
    "tiny": (2, 64, 4, 0.0),
}


def get_config(size="15.5b"):
    layers, d_model, heads, dropout = SIZES[size]
    tiny = size == "tiny"
    std = 0.02 if tiny else 0.01275
    return experiment(
        model=dict(
            vocab=512 if tiny else 49152,
            d_model=d_model,
            context=64 if tiny else 8192,
            norm="layernorm(eps=1e-5)",
            position="learned",
            embedding=f"table(dropout={dropout})",
            attention=f"mqa(heads={heads}, bias=True, dropout={dropout})",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"pre(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"normal(std={std}, residual_std={std}*(2*layers)**-0.5)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=250_000,
            batch_tokens=512 * 8192,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule="cosine(peak=3e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Li et al. 2023, arXiv:2305.06161",
            facts=f"starcoder-{size}",
            published=None if tiny else 15.5e9,
            sources=("bigcode-project/Megatron-LM examples/pretrain_bigcode_model.slurm", "arXiv:2305.06161"),
            notes="StarCoderBase; StarCoder went on with 35B tokens of Python. Half the documents were turned into "
            "fill-in-the-middle examples; here the objective is plain next-token prediction.",
            verified_against="transformers.GPTBigCodeForCausalLM",
        ),
    )
