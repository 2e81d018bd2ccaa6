"""Your own task, for T5 base or another of its sizes: lines such as {"question": "2 + 2 =", "answer": "4"} in data/*.jsonl.

Other files and fields: --config.data.source="jsonl_pairs(glob='my/*.jsonl', input='summarize: {text}', target='{summary}')".
"""

from taxonomy.config import derived

SIZES = ("base", "small", "large", "3b", "11b", "tiny")


def get_config(size="base"):
    return derived(
        f"tasks/glue:mnli-{size}",
        data=dict(
            source="jsonl_pairs(glob='data/*.jsonl', input='answer: {question}', target='{answer}')",
            tokenizer="sentencepiece(vocab=vocab-128)",
        ),
        evaluation=dict(metrics=("exact_match", "f1"), pairs=1000),
        about=dict(paper="Raffel et al. 2019, arXiv:1910.10683", sources=("arXiv:1910.10683, section 3.1.3",)),
    )
