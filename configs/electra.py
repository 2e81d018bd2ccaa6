"""ELECTRA: an encoder that tells which tokens of a text a small masked language model, trained beside it, has replaced."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, width of the vectors, d_model of the generator, published
    "small": (12, 256, 128, 64, 14e6),
    "base": (12, 768, 768, 256, 110e6),
    "large": (24, 1024, 1024, 256, 335e6),
    "tiny": (2, 64, 48, 32, None),
}
TRAINING = {  # share of masked tokens, context, sequences, peak learning rate, steps
    "small": (0.15, 128, 128, 5e-4, 1_000_000),
    "base": (0.15, 512, 256, 2e-4, 766_000),
    "large": (0.25, 512, 2048, 2e-4, 400_000),
}


def get_config(size="small"):
    layers, d_model, width, generator, published = SIZES[size]
    tiny = size == "tiny"
    drop = "" if tiny else ", dropout=0.1"
    heads = "d_model/16" if tiny else "d_model/64"
    if not tiny:
        rate, context, sequences, peak, steps = TRAINING[size]
    return experiment(
        model=dict(
            vocab=512 if tiny else 30522,
            d_model=d_model,
            context=64 if tiny else 512,
            norm="layernorm(eps=1e-12)",
            position="learned",
            embedding=f"projected(table(d_model={width}, types=2, norm=norm{drop}))",
            attention=f"mha(heads={heads}, bias=True{drop})",
            mlp="gelu(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"post(attention, mlp{drop})"),
            encoder=f"{layers}*block",
            head="detector",
            initializer="normal(std=0.02)",
            generator=dict(d_model=generator, head="mlm"),
        ),
        train=dict(TINY_TRAINING, objective="replaced_tokens")
        if tiny
        else dict(
            objective=f"replaced_tokens(rate={rate}, weight=50)",
            context=context,
            steps=steps,
            batch_tokens=sequences * context,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)",
            schedule=f"linear(peak={peak}, warmup='10000 steps')",
        ),
        data=dict(tokenizer="sentencepiece(vocab=vocab-128)"),
        about=dict(
            paper="Clark et al. 2020, arXiv:2003.10555",
            facts=f"electra-{size}",
            published=published,
            sources=("google-research/electra configure_pretraining.py, model/optimization.py", "arXiv:2003.10555, Table 6"),
            unsure=("training.steps",),
            notes="Counted without the generator, which is left behind after training. The released small and large models were "
            "trained for longer, the small one with a generator of its own width.",
            verified_against="transformers.ElectraForPreTraining, ElectraForMaskedLM",
        ),
    )
