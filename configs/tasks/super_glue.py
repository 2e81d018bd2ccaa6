"""SuperGLUE as text: `super_glue.py:boolq` for T5 base, `super_glue.py:boolq-small` for another of its sizes."""

from taxonomy.config import derived

TASKS = {  # what is given, how it is scored
    "boolq": ("boolq passage: {passage} question: {question}", ("accuracy",)),
    "cb": ("cb hypothesis: {hypothesis} premise: {premise}", ("class_f1", "accuracy")),
    "copa": ("copa choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}", ("accuracy",)),
    "multirc": ("multirc question: {question} answer: {answer} paragraph: {paragraph}", ("class_f1(positive='True')",)),
    "rte": ("rte hypothesis: {hypothesis} premise: {premise}", ("accuracy",)),
    "wic": ("wic sentence1: {sentence1} sentence2: {sentence2} word: {word}", ("accuracy",)),
}
MODELS = ("tiny", "small", "base", "large", "3b", "11b")
SIZES = {task: "base" for task in TASKS} | {f"{task}-{model}": model for task in TASKS for model in MODELS}
NOTES = {"multirc": "The marks of sentences in the paragraphs are left in, and answers are not scored by question."}


def get_config(size="boolq"):
    task, model = size.partition("-")[0], SIZES[size]
    given, metrics = TASKS[task]
    return derived(
        f"tasks/glue:mnli-{model}",
        data=dict(
            source=f"tfds_pairs('super_glue/{task}', input={given!r}, target='{{label}}')",
            tokenizer="sentencepiece(vocab=vocab-128)",
        ),
        evaluation=dict(metrics=metrics, pairs=2000),
        about=dict(
            paper="Wang et al. 2019, arXiv:1905.00537; Raffel et al. 2019, arXiv:1910.10683",
            sources=(
                "arXiv:1910.10683, section 3.1.3 and appendix D",
                "google-research/text-to-text-transfer-transformer t5/data/glue_utils.py",
            ),
            notes=NOTES.get(
                task, "ReCoRD and WSC are not here: several pairs are made of one of their examples, or words are marked."
            ),
        ),
    )
