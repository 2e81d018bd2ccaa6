"""Tasks asked of a model: those made here, see `local_tasks`, and any that lm_eval knows and can read."""

import contextlib
import difflib
import importlib.util
import io
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from taxonomy import registry
from taxonomy.errors import UserError

_TALKATIVE = ("lm_eval", "datasets", "huggingface_hub", "evaluate", "httpx")
_SEED = 1234  # of examples drawn, as lm_eval's own command has it


def check(sentences: Sequence[str]) -> None:
    """Raises UserError for a mistaken sentence of a task made here, and where lm_eval is not installed."""
    for sentence in sentences:
        if _local(sentence):
            registry.create("task", sentence, "--tasks")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("--tasks: needs the library lm_eval, which is not installed: pip install -e '.[eval]'")


def _local(sentence: str) -> bool:
    """Whether it is a task made here, to judge by its name."""
    names = {entry.name for entry in registry.entries("task")}
    return sentence.partition("(")[0].strip() in names


def run(
    config: ml_collections.ConfigDict,
    params: Mapping[str, Any],
    tokenizer: Any,
    sentences: Sequence[str],
    *,
    fewshot: int | None = None,
    limit: int | None = None,
    told: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> dict[str, dict[str, Any]]:
    """What the model reaches in each task, and in each group of them: documents, shots, and metrics with their standard errors.

    fewshot: examples shown before each question, where a task does not forbid it. limit: questions of each task at most. `told`
    hears of progress, see `harness.Harness`. Raises UserError for a task that there is not, or that cannot be read.
    """
    check(sentences)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from taxonomy.inference.harness import Harness

    manager = TaskManager(include_defaults=not all(_local(one) or pathlib.Path(one).is_file() for one in sentences))
    asked: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for sentence in sentences:
        found = _loaded(manager, sentence)
        asked = {kind: {**known, **found.get(kind, {})} for kind, known in asked.items()}
    for task in asked["tasks"].values():
        _prepare(task, fewshot)
    model = Harness(config, params, tokenizer, told)
    with contextlib.redirect_stdout(io.StringIO()):  # where standard errors are drawn, that is printed
        results = evaluate(model, asked, limit=limit, log_samples=False)
    return {name: _figures(results, name, values) for name, values in results["results"].items()}


def _loaded(manager: Any, sentence: str) -> dict[str, dict[str, Any]]:
    local = _local(sentence)
    if not local and sentence not in manager.task_index and not pathlib.Path(sentence).is_file():
        names = [entry.name for entry in registry.entries("task")]
        close = difflib.get_close_matches(sentence, [*names, *manager.all_tasks], n=1, cutoff=0.5)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UserError(f"--tasks: unknown task '{sentence}'{hint} (made here: {', '.join(names)}; all others are lm_eval's)")
    try:
        return manager.load([registry.create("task", sentence, "--tasks").asked(sentence) if local else sentence])
    except UserError:
        raise
    except Exception as error:  # what a task's own code and its download raise has no common type
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"--tasks: {sentence}: cannot be read ({type(error).__name__}: {reason})") from None


def _prepare(task: Any, fewshot: int | None) -> None:
    """Sets the number of examples as lm_eval's command does: a task that says none gets none."""
    name, own = task.task_name, task.get_config("num_fewshot")
    for flag, what in (("UNSAFE_CODE", "runs what the model writes"), ("MULTIMODAL", "shows more than text")):
        if getattr(task, flag, False):
            raise UserError(f"--tasks: {name}: {what}, which is not done here")
    if own is None or (fewshot is not None and own != 0):
        task.set_config("num_fewshot", fewshot or 0)
    task.set_fewshot_seed(seed=_SEED)


def _figures(results: Mapping[str, Any], name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics by name, with the name of the filter of answers where there is one."""
    figures: dict[str, Any] = {"documents": results["n-samples"].get(name, {}).get("effective")}
    figures["shots"] = results["n-shot"].get(name)
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if comma:
            figures[metric if chosen == "none" else f"{metric} ({chosen})"] = value if isinstance(value, (int, float)) else None
    return figures
