"""BioMedLM (PubMedGPT): GPT-2 on biomedical abstracts and papers, with a vocabulary made from them."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads
    "2.7b": (32, 2560, 20),
    "tiny": (2, 64, 2),
}


def get_config(size="2.7b"):
    layers, d_model, heads = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 28896,
            d_model=d_model,
            context=64 if tiny else 1024,
            norm="layernorm(eps=1e-5)",
            position="learned",
            attention=f"mha(heads={heads}, bias=True)",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5)",
        ),
        # A decay of 1.6e-5 that the peak rate does not multiply is 0.1 times that rate.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=300e9,
            batch_tokens=1024 * 1024,
            optimizer="adamw(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)",
            schedule="cosine(peak=1.6e-4, warmup='100 steps', final=0.1)",
        ),
        about=dict(
            paper="Bolton et al. 2022, BioMedLM",
            facts=f"biomedlm-{size}",
            published=None if tiny else 2.7e9,
            sources=("stanford-crfm/BioMedLM README", "the model card"),
            unsure=("optimizer.b1 and b2", "schedule", "initializer"),
            notes="2.59B parameters; the label is that of the same shape with 50257 rows.",
            verified_against="transformers.GPT2LMHeadModel",
        ),
    )
