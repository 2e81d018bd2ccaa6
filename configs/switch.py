"""Switch Transformer: T5 v1.1 where one of many experts, the likeliest, takes each token in every second layer."""

from taxonomy.config import TINY_TRAINING, experiment

PAPER, RELEASED = "geglu(d_ff={}, approximate=True)", "relu(d_ff={})"
SIZES = {  # layers of each stack, d_model, heads, feed-forward, its width, experts, capacity (training, evaluation), published
    "base": (12, 768, 12, PAPER, 2048, 128, (1.25, 2.0), 7e9),
    "large": (24, 1024, 16, PAPER, 2816, 128, (1.25, 2.0), 26e9),
    "xxl": (24, 4096, 64, PAPER, 10240, 128, (1.25, 4.0), 395e9),
    "c": (15, 2080, 32, RELEASED, 6144, 2048, (1.0, 2.0), 1571e9),
    "base-128-released": (12, 768, 12, RELEASED, 3072, 128, (1.25, 2.0), None),
    "large-128-released": (24, 1024, 16, RELEASED, 4096, 128, (1.25, 2.0), None),
    "xxl-128-released": (24, 4096, 64, PAPER, 10240, 128, (1.25, 4.0), 395e9),
    "c-2048-released": (15, 2080, 30, RELEASED, 6144, 2048, (1.0, 2.0), 1.6e12),
    "quickstart": (4, 128, 4, RELEASED, 256, 8, (2.0, 2.0), None),
    "tiny": (4, 64, 4, RELEASED, 96, 4, None, None),
}
TIED = ("base-128-released", "large-128-released", "quickstart", "tiny")
LENGTHS = {"tiny": (512, 32, 64), "quickstart": (4096, 58, 256)}  # vocabulary, context, inputs; published for the others
PRETRAINING = dict(
    train=dict(
        objective="span_corruption",
        steps=550_000,
        batch_tokens=2048 * 114,
        optimizer="adafactor",
        schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
        loss="cross_entropy(z=1e-4)",
    )
)
QUICKSTART = dict(  # minutes on two cores, on the Python standard library
    train=dict(
        objective="span_corruption",
        steps=300,
        log_every=10,
        batch_tokens=24 * 58,
        optimizer="adafactor",
        schedule="wsd(peak=2e-2, warmup='40 steps', decay='40%', final=0.05)",
        dtype="float32",
        scan=False,
    ),
    evaluation=dict(every="10%", max_tokens=32768),
)
RECIPES = {"tiny": dict(train=dict(TINY_TRAINING, objective="span_corruption")), "quickstart": QUICKSTART}
LABEL = "The count printed is that of the experts alone, rounded. A row of the batch is the group that shares experts' room."
NOTES = {
    "base": LABEL,
    "large": LABEL,
    "xxl": "The paper's table prints 64 experts, which would be 201e9 parameters; 128 give its 395e9, and were released.",
    "quickstart": "Its dense twin of as many FLOPs: --config.model.moe='relu(d_ff=256)'.",
}


def get_config(size="base"):
    layers, d_model, heads, mlp, d_ff, experts, capacity, published = SIZES[size]
    vocab, context, inputs = LENGTHS.get(size, (32128, 114, 512))
    attention = f"mha(heads={heads}, head_dim={d_model // heads if size in LENGTHS else 64}, scale=1"
    # Where tests compare, nothing is random and all tokens have a place, so that they are treated alike in rows of any length.
    router = "softmax(jitter=0.01, balance=0.01)" if capacity else "softmax(balance=0.01)"
    room = f"capacity={capacity[0]}, evaluation_capacity={capacity[1]}" if capacity else f"slots={inputs}"
    expert = mlp.format(f"{d_ff}, initializer=fan_in(scale=0.1)")
    every = f"{layers}*sparse_{{0}}" if size.startswith("c") else f"{layers // 2}*(dense_{{0}} + sparse_{{0}})"
    kinds = ("sparse",) if size.startswith("c") else ("dense", "sparse")
    sublayers = dict(dense="mlp", sparse="moe")
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            inputs=inputs,
            norm="rmsnorm(eps=1e-6)",
            position="t5_bias(shared=True)",
            attention=f"{attention})",
            encoder_attention=f"{attention}, mask=full, position=t5_bias(shared=True, bidirectional=True))",
            cross_attention=f"{attention}, mask=full, position=none, source='encoder')",
            **({"mlp": mlp.format(d_ff)} if "dense" in kinds else {}),
            moe=f"moe(experts={experts}, top_k=1, router={router}, expert={expert}, {room})",
            blocks={f"{kind}_reading": f"pre(encoder_attention, {sublayers[kind]})" for kind in kinds}
            | {f"{kind}_writing": f"pre(attention, cross_attention, {sublayers[kind]})" for kind in kinds},
            encoder=every.format("reading"),
            decoder=every.format("writing"),
            head="tied(scale=d_model**-0.5)" if size in TIED else "untied",
            initializer="fan_in(embedding_std=1.0)",
        ),
        **RECIPES.get(size, PRETRAINING),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Fedus et al. 2021, arXiv:2101.03961",
            facts=f"switch-{size}",
            published=published,
            sources=("arXiv:2101.03961, Table 9 and section 2", "google/flaxformer t5x/configs/moe/models/switch_*.gin"),
            unsure=(
                "context",
                "inputs",
                "schedule",
                "loss",
                "head",
                "initializer: T5 folds the scale of the scores into the query",
            ),
            notes=NOTES.get(size, ""),
            verified_against="transformers.SwitchTransformersForConditionalGeneration",
        ),
    )
