"""GPT-2: pre-norm decoder with learned positions whose residual projections start smaller the deeper the model."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads
    "124m": (12, 768, 12),
    "355m": (24, 1024, 16),
    "774m": (36, 1280, 20),
    "1.5b": (48, 1600, 25),
    "tiny": (2, 64, 4),
}
PUBLISHED = {"124m": 124e6, "355m": 355e6, "774m": 774e6, "1.5b": 1558e6}


def get_config(size="124m"):
    layers, d_model, heads = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 50257,
            d_model=d_model,
            context=64 if tiny else 1024,
            norm="layernorm(eps=1e-5)",
            position="learned",
            attention=f"mha(heads={heads}, bias=True)",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5, position_std=0.01)",
        ),
        # The batch is published; the learning rate never was, so GPT-3's of the nearest size stands in.
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=300_000,
            batch_tokens=512 * 1024,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule="cosine(peak=2.5e-4, warmup='2000 steps', final=0.1)",
        ),
        about=dict(
            paper="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
            facts=f"gpt-2-{size}",
            published=PUBLISHED.get(size),
            sources=("openai/gpt-2 src/model.py and model card",),
            unsure=("training",),
            notes="The paper's labels (117M, 345M, 762M, 1542M) were corrected by the repository.",
            verified_against="transformers.GPT2LMHeadModel",
        ),
    )
