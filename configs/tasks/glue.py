"""GLUE as text: `glue.py:mnli` for T5 base, `glue.py:mnli-small` for another of its sizes."""

from taxonomy.config import derived

TASKS = {  # what is given, how it is scored
    "cola": ("cola sentence: {sentence}", ("matthews",)),
    "sst2": ("sst2 sentence: {sentence}", ("accuracy",)),
    "mrpc": ("mrpc sentence1: {sentence1} sentence2: {sentence2}", ("class_f1(positive='equivalent')", "accuracy")),
    "qqp": ("qqp question1: {question1} question2: {question2}", ("class_f1(positive='duplicate')", "accuracy")),
    "stsb": ("stsb sentence1: {sentence1} sentence2: {sentence2}", ("correlation", "correlation(kind='spearman')")),
    "mnli": ("mnli hypothesis: {hypothesis} premise: {premise}", ("accuracy",)),
    "qnli": ("qnli question: {question} sentence: {sentence}", ("accuracy",)),
    "rte": ("rte sentence1: {sentence1} sentence2: {sentence2}", ("accuracy",)),
    "wnli": ("wnli sentence1: {sentence1} sentence2: {sentence2}", ("accuracy",)),
}
MODELS = ("tiny", "small", "base", "large", "3b", "11b")
SIZES = {task: "base" for task in TASKS} | {f"{task}-{model}": model for task in TASKS for model in MODELS}


OPTIONS = {"stsb": ", step=0.2", "mnli": ", validation='validation_matched', test='test_matched'"}


def get_config(size="mnli"):
    task, model = size.partition("-")[0], SIZES[size]
    given, metrics = TASKS[task]
    return derived(
        f"t5:{model}",
        train=dict(
            objective="pairs",
            steps=2**18,
            batch_tokens=128 * (32 if model == "tiny" else 114),
            optimizer="adafactor",
            schedule="constant(peak=1e-3)",
        ),
        data=dict(
            source=f"tfds_pairs('glue/{task}', input={given!r}, target='{{label}}'{OPTIONS.get(task, '')})",
            tokenizer="sentencepiece(vocab=vocab-128)",
        ),
        evaluation=dict(metrics=metrics, pairs=2000),
        checkpoint=dict(every="5000 steps"),
        about=dict(
            paper="Wang et al. 2018, arXiv:1804.07461; Raffel et al. 2019, arXiv:1910.10683",
            sources=(
                "arXiv:1910.10683, section 3.1.3 and appendix D",
                "google-research/text-to-text-transfer-transformer t5/data/glue_utils.py",
            ),
            notes="Published batches are 128 rows of 512 tokens on both sides.",
        ),
    )
