"""BLOOM: a multilingual GPT with ALiBi instead of position embeddings and a norm right after the token table."""

from taxonomy.config import TINY_TRAINING, experiment

# layers, d_model, heads, peak rate, lowest rate, batch in sequences, rises of the batch, tokens, published
SIZES = {
    "560m": (24, 1024, 16, 3e-4, 1e-5, 256, 2, 341e9, 559214592.0),
    "1.1b": (24, 1536, 16, 2.5e-4, 1e-5, 256, 4, 341e9, 1065314304.0),
    "1.7b": (24, 2048, 16, 2e-4, 1e-5, 512, 20, 341e9, 1722408960.0),
    "3b": (30, 2560, 32, 1.6e-4, 1e-5, 512, 10, 341e9, 3002557440.0),
    "7.1b": (30, 4096, 32, 1.2e-4, 1e-5, 512, 10, 341e9, 7069016064.0),
    "176b": (70, 14336, 112, 6e-5, 6e-6, 2048, 116, 366e9, 176247271424.0),
    "tiny": (2, 64, 4, None, None, None, None, None, None),
}


def get_config(size="560m"):
    layers, d_model, heads, peak, lowest, sequences, rises, tokens, published = SIZES[size]
    tiny = size == "tiny"
    std = 0.02 if tiny else 0.0048
    return experiment(
        model=dict(
            vocab=512 if tiny else 250880,
            d_model=d_model,
            context=64 if tiny else 2048,
            norm="layernorm(eps=1e-5)",
            position="alibi",
            embedding="table(norm=norm)",
            attention=f"mha(heads={heads}, bias=True)",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer=f"normal(std={std}, residual_std={std}*(2*layers)**-0.5)",
        ),
        # The batch starts at 192 sequences and rises over 9,765,625 of them.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=tokens,
            batch_tokens=sequences * 2048,
            batch_ramp=f"linear(start={192 * 2048}, over='20e9 tokens', increments={rises})",
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule=f"cosine(peak={peak}, warmup='375e6 tokens', until='410e9 tokens', final={lowest}/{peak})",
        ),
        about=dict(
            paper="BigScience Workshop 2022, arXiv:2211.05100",
            facts=f"bloom-{size}",
            published=published,
            sources=("bigscience-workshop/bigscience train/tr11-176B-ml", "arXiv:2211.05100, Table 3"),
            unsure=() if size == "176b" else ("training.tokens",),
            notes="The table is padded from 250680 rows.",
            verified_against="transformers.BloomForCausalLM",
        ),
    )
