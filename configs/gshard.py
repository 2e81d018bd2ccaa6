"""GShard: translation with two of thousands of experts for each token in every second layer of an encoder and a decoder."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers of each stack, d_model, heads, head_dim, d_ff, experts, published
    "600b": (18, 1024, 16, 128, 8192, 2048, 600e9),
    "tiny": (2, 64, 4, 16, 96, 4, None),
}


def get_config(size="600b"):
    layers, d_model, heads, head_dim, d_ff, experts, published = SIZES[size]
    tiny = size == "tiny"
    # Where tests compare, nothing is random and all tokens have a place, so that they are treated alike in rows of any length.
    router = "softmax(renormalize=True, balance=0.01)" if tiny else "top2(balance=0.01)"
    capacity = experts if tiny else 1.0
    attention = f"mha(heads={heads}, head_dim={head_dim}"
    return experiment(
        model=dict(
            vocab=512 if tiny else 64000,
            d_model=d_model,
            context=64 if tiny else 128,
            inputs=64 if tiny else 128,
            norm="layernorm(eps=1e-6)",
            position="sinusoidal",
            embedding="table(scale=d_model**0.5)",
            attention=f"{attention})",
            encoder_attention=f"{attention}, mask=full)",
            cross_attention=f"{attention}, mask=full, source='encoder')",
            mlp=f"relu(d_ff={d_ff}, bias=True)",
            moe=f"moe(experts={experts}, top_k=2, router={router}, expert=relu(d_ff={d_ff}), capacity={capacity})",
            blocks=dict(
                dense_reading="pre(encoder_attention, mlp)",
                sparse_reading="pre(encoder_attention, moe)",
                dense_writing="pre(attention, cross_attention, mlp)",
                sparse_writing="pre(attention, cross_attention, moe)",
            ),
            encoder=f"{layers // 2}*(dense_reading + sparse_reading)",
            decoder=f"{layers // 2}*(dense_writing + sparse_writing)",
            head="tied",
            initializer="xavier(embedding_std=d_model**-0.5)",
        ),
        train=dict(TINY_TRAINING, objective="span_corruption")
        if tiny
        else dict(
            objective="pairs",
            tokens=1e12,
            batch_tokens=4_000_000 // 128 * 128,
            optimizer="adafactor",
            schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
            loss="cross_entropy(label_smoothing=0.1)",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Lepikhin et al. 2020, arXiv:2006.16668",
            facts=f"gshard-{size}",
            published=published,
            sources=("arXiv:2006.16668, sections 2.2 and 4",),
            unsure=("layers: 36, halved between the stacks", "vocab", "context", "norm", "position", "schedule", "bias", "head"),
            notes="600B is the paper's name for 2048 experts and 36 layers; 18 layers of 2048 experts are 618B. "
            "A row of the batch is a group here: of 128 tokens an expert takes one. The paper's groups are larger.",
        ),
    )
