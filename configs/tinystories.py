"""TinyStories: GPT-Neo shrunk to what is needed for stories that a small child understands."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, published
    "1m": (8, 64, 1e6),
    "3m": (8, 128, 3e6),
    "8m": (8, 256, 8e6),
    "28m": (8, 512, 28e6),
    "33m": (4, 768, 33e6),
    "1layer-21m": (1, 1024, 21e6),
    "2layers-33m": (2, 1024, 33e6),
    "tiny": (4, 64, None),
}


def get_config(size="1m"):
    layers, d_model, published = SIZES[size]
    tiny = size == "tiny"
    # Scores are not divided by the root of the head's width.
    attention = f"mha(heads={4 if tiny else 16}, out_bias=True, scale=1.0)"
    return experiment(
        model=dict(
            vocab=512 if tiny else 50257,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="learned",
            attention=attention,
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            head="tied",
            initializer="normal(std=0.02)",
            **(
                dict(blocks=dict(full="pre(attention, mlp)"), decoder="full")
                if layers == 1
                else dict(
                    local_attention=f"{attention[:-1]}, mask=local(window={24 if tiny else 256}))",
                    blocks=dict(full="pre(attention, mlp)", local="pre(local_attention, mlp)"),
                    decoder=f"{layers // 2}*(full + local)",
                )
            ),
        ),
        # The released models were trained at most 30 hours on one GPU; five passes over the stories stand in.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=2.4e9,
            context=512,
            batch_tokens=1280 * 512,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="constant(peak=5e-4)",
        ),
        about=dict(
            paper="Eldan & Li 2023, arXiv:2305.07759",
            facts=f"tinystories-{size}",
            published=published,
            sources=("arXiv:2305.07759", "transformers configurations of the released checkpoints"),
            unsure=("training", "mask of the models of one and two layers"),
            notes="The names count the layers and a table of 10000 rows, the words the paper keeps; the checkpoints have GPT-Neo's "
            "50257 rows and 2048 positions.",
            verified_against="transformers.GPTNeoForCausalLM",
        ),
    )
