"""Decision Transformer: a small GPT that reads returns to go, states and actions, and is asked for the action of a good return."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, activation, actions, context, dropout
    "atari": (6, 128, 8, "gelu", 4, 90, 0.1),
    "gym": (3, 128, 1, "relu", 1, 60, 0.1),
    "tiny": (2, 64, 4, "gelu", 512, 64, 0.0),
}
# Steps, batch in sequences of the context, optimizer, schedule, clip
RECIPES = {
    "atari": (19_531, 128, "adamw(b1=0.9, b2=0.95, weight_decay=0.1)", "cosine(peak=6e-4, warmup='10240 tokens', final=0.1)", 1.0),
    "gym": (100_000, 64, "adamw(weight_decay=1e-4)", "constant(peak=1e-4, warmup='10000 steps')", 0.25),
}


def get_config(size="atari"):
    layers, d_model, heads, activation, actions, context, dropout = SIZES[size]
    steps, sequences, optimizer, schedule, clip = RECIPES.get(size, (None,) * 5)
    return experiment(
        model=dict(
            vocab=actions,
            d_model=d_model,
            context=context,
            norm="layernorm(eps=1e-5)",
            position="none" if size == "gym" else "learned",
            embedding=f"table(norm=norm, dropout={dropout})" if size == "gym" else f"table(dropout={dropout})",
            attention=f"mha(heads={heads}, bias=True, dropout={dropout})",
            mlp=f"{activation}(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"pre(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="untied",
            initializer="normal(std=0.02)",
        ),
        # Atari: five passes over half a million steps of play.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(steps=steps, batch_tokens=sequences * context, optimizer=optimizer, schedule=schedule, clip=clip),
        about=dict(
            paper="Chen et al. 2021, arXiv:2106.01345",
            facts=f"decision-transformer-{size}",
            verified_against="transformers.GPT2LMHeadModel",
            sources=("kzl/decision-transformer atari and gym", "transformers configuration"),
            unsure=("optimizer", "clip"),
            notes="The trunk over action tokens (Breakout's four for Atari). Left out: the networks that embed states and returns, "
            "the table of time steps, and for gym the heads of continuous actions, whose vocabulary here stands for nothing.",
        ),
    )
