"""T5: an encoder and a decoder trained to fill in spans, with relative position buckets that all layers of a stack share."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers of each stack, d_model, heads, head_dim, d_ff, published
    "small": (6, 512, 8, 64, 2048, 60e6),
    "base": (12, 768, 12, 64, 3072, 220e6),
    "large": (24, 1024, 16, 64, 4096, 770e6),
    "3b": (24, 1024, 32, 128, 16384, 2.8e9),
    "11b": (24, 1024, 128, 128, 65536, 11e9),
    "quickstart": (3, 192, 6, 32, 512, None),
    "tiny": (2, 64, 4, 16, 128, None),
}
LENGTHS = {"tiny": (512, 32, 64), "quickstart": (4096, 58, 256)}  # vocabulary, context, inputs; published for the others
PRETRAINING = dict(
    train=dict(
        objective="span_corruption",
        steps=1_000_000,
        batch_tokens=2048 * 114,
        optimizer="adafactor",
        schedule="inverse_sqrt(peak=1e-2, hold='10000 steps')",
        loss="cross_entropy(z=1e-4)",
    )
)
QUICKSTART = dict(  # minutes on two cores, on the Python standard library
    train=dict(
        objective="span_corruption",
        steps=280,
        log_every=5,
        batch_tokens=24 * 58,
        optimizer="adafactor",
        schedule="wsd(peak=2e-2, warmup='40 steps', decay='40%', final=0.05)",
        dtype="float32",
        scan=False,
    ),
    evaluation=dict(every="10%", max_tokens=32768),
)
RECIPES = {"tiny": dict(train=dict(TINY_TRAINING, objective="span_corruption")), "quickstart": QUICKSTART}
NOTES = {
    "large": "The printed 770M counts the output matrix apart; it is the token table.",
    "11b": "The published 11B is rounded down.",
}


def get_config(size="small"):
    layers, d_model, heads, head_dim, d_ff, published = SIZES[size]
    vocab, context, inputs = LENGTHS.get(size, (32128, 114, 512))
    drop = "" if size in LENGTHS else ", dropout=0.1"
    attention = f"mha(heads={heads}, head_dim={head_dim}, scale=1{drop}"
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            inputs=inputs,
            norm="rmsnorm(eps=1e-6)",
            position="t5_bias(shared=True)",
            embedding=f"table({drop[2:]})" if drop else "table",
            attention=f"{attention})",
            encoder_attention=f"{attention}, mask=full, position=t5_bias(shared=True, bidirectional=True))",
            cross_attention=f"{attention}, mask=full, position=none, source='encoder')",
            mlp=f"relu(d_ff={d_ff})",
            blocks=dict(
                reading=f"pre(encoder_attention, mlp{drop})",
                writing=f"pre(attention, cross_attention, mlp{drop})",
            ),
            encoder=f"{layers}*reading",
            decoder=f"{layers}*writing",
            head="tied(scale=d_model**-0.5)",
            initializer="fan_in(embedding_std=1.0)",
        ),
        **RECIPES.get(size, PRETRAINING),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Raffel et al. 2019, arXiv:1910.10683",
            facts=f"t5-{size}",
            published=published,
            sources=("google-research/t5x examples/t5/t5_1_0", "arXiv:1910.10683, sections 2.1 and 3.7"),
            unsure=("initializer: T5 folds the scale of the scores into the query",),
            notes=NOTES.get(size, ""),
            verified_against="transformers.T5ForConditionalGeneration",
        ),
    )
