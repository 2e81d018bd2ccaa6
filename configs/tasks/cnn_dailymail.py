"""CNN / Daily Mail summaries as text, for T5 base or another of its sizes: `cnn_dailymail.py:small`."""

from taxonomy.config import derived

SIZES = ("base", "small", "large", "3b", "11b", "tiny")


def get_config(size="base"):
    return derived(
        f"tasks/wmt:en-de-{size}",
        data=dict(
            source="tfds_pairs('cnn_dailymail', input='summarize: {article}', target='{highlights}')",
            tokenizer="sentencepiece(vocab=vocab-128)",
        ),
        evaluation=dict(metrics=("rouge(kind='rouge1')", "rouge(kind='rouge2')", "rouge(kind='rougeLsum')"), pairs=1000),
        about=dict(
            paper="See et al. 2017, arXiv:1704.04368; Raffel et al. 2019, arXiv:1910.10683",
            sources=("arXiv:1910.10683, sections 2.3 and 3.1.3, and appendix D",),
            notes="Published scores are of beam search with a width of 4.",
        ),
    )
