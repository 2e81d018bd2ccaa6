"""GPT-NeoX: GPT-J's parallel block with a norm for each branch, rotary positions on a quarter of each head, biases."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, rotary dimensions
    "20b": (44, 6144, 64, 24),
    "tiny": (2, 64, 4, 4),
}


def get_config(size="20b"):
    layers, d_model, heads, rotary = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 50432,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position=f"rope(dims={rotary})",
            attention=f"mha(heads={heads}, bias=True)",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="parallel(attention, mlp, shared_norm=False)"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=(2/(5*d_model))**0.5, residual_std=2/(layers*d_model**0.5))",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=150_000,
            batch_tokens=1536 * 2048,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01)",
            schedule="cosine(peak=9.7e-5, warmup='1%', final=0.1)",
        ),
        about=dict(
            paper="Black et al. 2022, arXiv:2204.06745",
            facts=f"gpt-neox-{size}",
            published=None if tiny else 20.55e9,
            sources=("EleutherAI/gpt-neox configs/20B.yml", "arXiv:2204.06745"),
            unsure=("norm.eps",),
            notes="The paper prints a peak rate of 0.97e-5, the released configuration 0.97e-4. 175 rows of the table are padding.",
            verified_against="transformers.GPTNeoXForCausalLM",
        ),
    )
