"""BioBERT: BERT trained on with biomedical abstracts and papers, in its own cased vocabulary."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, steps
    "1.0": ("bert:base", 200_000 + 270_000),
    "1.1": ("bert:base", 1_000_000),
    "tiny": ("bert:tiny", None),
}
READ = {
    "1.0": "PubMed abstracts (4.5B words) for 200,000 steps and PMC articles (13.5B words) for 270,000",
    "1.1": "PubMed abstracts (4.5B words)",
    "tiny": "anything",
}


def get_config(size="1.1"):
    base, steps = SIZES[size]
    return derived(
        base,
        model={} if size == "tiny" else dict(vocab=28996),
        train=dict(TINY_TRAINING, objective="masked_lm")
        if size == "tiny"
        else dict(
            objective="masked_lm",
            steps=steps,
            batch_tokens=192 * 512,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)",
            schedule="linear(peak=1e-4, warmup='10000 steps')",
        ),
        about=dict(
            paper="Lee et al. 2019, arXiv:1901.08746",
            facts=f"biobert-{size}",
            published=None if size == "tiny" else 110e6,
            sources=("arXiv:1901.08746, sections 3.2 and 4.2", "dmis-lab/biobert README"),
            unsure=("optimizer", "schedule", "the rows of each corpus"),
            notes=f"Starts from the weights of the cased base, whose vocabulary has 28996 rows, and reads {READ[size]}. Rates are "
            "the base's, which the paper does not change. Counted with the head that guesses tokens and without the pooler.",
            verified_against="transformers.BertForMaskedLM",
        ),
    )
