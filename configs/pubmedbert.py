"""PubMedBERT: BERT trained from nothing on biomedical text alone, with a vocabulary made from it and whole words masked."""

from taxonomy.config import TINY_TRAINING, derived

SIZES = {  # base, steps
    "abstracts": ("bert:base", 62_500),
    "full-text": ("bert:base", 100_000),
    "tiny": ("bert:tiny", None),
}
READ = {
    "abstracts": "14 million PubMed abstracts (3.2B words)",
    "full-text": "PubMed abstracts and PMC articles (16.8B words)",
    "tiny": "anything",
}


def get_config(size="abstracts"):
    base, steps = SIZES[size]
    objective = "masked_lm(whole_words=True)"
    return derived(
        base,
        train=dict(TINY_TRAINING, objective=objective)
        if size == "tiny"
        else dict(
            objective=objective,
            steps=steps,
            batch_tokens=8192 * 512,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)",
            schedule="linear(peak=6e-4, warmup='10%')",
        ),
        about=dict(
            paper="Gu et al. 2020, arXiv:2007.15779",
            facts=f"pubmedbert-{size}",
            published=None if size == "tiny" else 110e6,
            sources=("arXiv:2007.15779, sections 2.2 and 3.1", "the model card"),
            unsure=("optimizer", "clip", "tokens in a row"),
            notes=f"Reads {READ[size]}. As many rows in the vocabulary as the base, all its own. Counted with the head that "
            "guesses tokens and without the pooler of next-sentence prediction, which is not in this objective.",
        ),
    )
