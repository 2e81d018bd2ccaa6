"""WMT translation as text: `wmt.py:en-de` for T5 base, `wmt.py:en-de-small` for another of its sizes."""

from taxonomy.config import derived

TASKS = {  # dataset, language, key
    "en-de": ("wmt14_translate/de-en", "German", "de"),
    "en-fr": ("wmt14_translate/fr-en", "French", "fr"),
    "en-ro": ("wmt16_translate/ro-en", "Romanian", "ro"),
}
MODELS = ("tiny", "small", "base", "large", "3b", "11b")
SIZES = {task: "base" for task in TASKS} | {f"{task}-{model}": model for task in TASKS for model in MODELS}


def get_config(size="en-de"):
    dataset, language, key = TASKS[size[:5]]
    return derived(
        f"tasks/glue:mnli-{SIZES[size]}",
        train=dict(
            objective="pairs",
            context=512,
            steps=2**18,
            batch_tokens=128 * 512,
            optimizer="adafactor",
            schedule="constant(peak=1e-3)",
        ),
        data=dict(
            source=f"tfds_pairs('{dataset}', input='translate English to {language}: {{en}}', target='{{{key}}}')",
            tokenizer="sentencepiece(vocab=vocab-128)",
        ),
        evaluation=dict(metrics=("bleu(tokenize='intl')",), pairs=3000),
        about=dict(
            paper="Bojar et al. 2014; Raffel et al. 2019, arXiv:1910.10683",
            sources=("arXiv:1910.10683, sections 2.3 and 3.1.3, and appendix D",),
            notes="Published scores are of beam search with a width of 4.",
        ),
    )
