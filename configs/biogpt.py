"""BioGPT: GPT-2 on the titles and abstracts of PubMed, in its own vocabulary."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, vocab, context, name of the facts, published
    "base": (24, 1024, 16, 42384, 1024, "biogpt", 347e6),
    "large": (48, 1600, 25, 57717, 2048, "biogpt-large", 1.5e9),
    "tiny": (2, 64, 4, 512, 64, "biogpt-tiny", None),
}
NOTES = {"large": "The label is that of GPT-2's shape, whose vocabulary is smaller: 1.57B parameters."}


def get_config(size="base"):
    layers, d_model, heads, vocab, context, facts, published = SIZES[size]
    tiny = size == "tiny"
    dropout = 0.0 if tiny else 0.1
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="layernorm(eps=1e-5)",
            position="learned(length=context+2, offset=2)",
            embedding=f"table(scale=d_model**0.5, dropout={dropout})",
            attention=f"mha(heads={heads}, bias=True, dropout={dropout})",
            mlp="gelu(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"pre(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02)",
        ),
        train=TINY_TRAINING
        if tiny
        else dict(
            steps=200_000,
            batch_tokens=512 * 1024,
            optimizer="adamw(b1=0.9, b2=0.98, weight_decay=0.01)",
            schedule="inverse_sqrt(peak=2e-4, hold='20000 steps', warmup='20000 steps')",
        ),
        about=dict(
            paper="Luo et al. 2022, arXiv:2210.10341",
            facts=facts,
            published=published,
            sources=("microsoft/BioGPT README", "transformers configuration", "facebookresearch/fairseq transformer_lm_gpt2_big"),
            unsure=("optimizer", "dropout") if size != "large" else ("vocab", "context", "training"),
            notes=NOTES.get(size, "The configuration's epsilon of 1e-12 is never read."),
            verified_against="transformers.BioGptForCausalLM",
        ),
    )
