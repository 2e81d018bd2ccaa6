"""Evaluates the newest good checkpoint of a workdir on held-out text: python -m taxonomy.evaluate --workdir=runs/quickstart

Of pairs it also scores greedy answers: --metrics="accuracy, bleu", by default those of the config. With --tasks="next_name, sums"
it asks tasks instead: those made here, with their arguments, or any of lm_eval by its name. On several hosts the same command is
started on each, see `taxonomy.distributed`; answers and tasks are for one.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from taxonomy import cli, distributed
from taxonomy.errors import UserError

_SPLIT = flags.DEFINE_enum("split", "validation", ["validation", "test"], "The held-out split.")
_TOKENS = flags.DEFINE_float("max_tokens", None, "Evaluate this many tokens only.")
_SOURCE = flags.DEFINE_string("source", None, "Other text, such as \"text(glob='*.txt')\".")
_METRICS = flags.DEFINE_string("metrics", None, 'Metrics of greedy answers to held-out pairs, such as "exact_match, f1, rouge".')
_PAIRS = flags.DEFINE_integer("pairs", None, "Answer this many held-out pairs.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", None, "Another mesh than the run's, such as data:-1.")
_TASKS = flags.DEFINE_string("tasks", None, 'Tasks to ask instead, such as "next_name, sums(digits=1), hellaswag".')
_FEWSHOT = flags.DEFINE_integer(
    "fewshot", None, "Of --tasks: examples before each question, if not those of the task.", lower_bound=0
)
_LIMIT = flags.DEFINE_integer("limit", None, "Of --tasks: questions of each task at most.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object.")
distributed.define_flags()
_COUNTS = {"documents": 9, "shots": 5}


def main(argv: list[str]) -> None:
    workdir = cli.workdir()
    _refuse_together()
    if _TASKS.value is not None:
        _ask(workdir)
        return
    distributed.join(saves=False)
    import jax

    from taxonomy import config as config_lib
    from taxonomy.inference import answers
    from taxonomy.training import checkpoints, loop
    from taxonomy.training.parts import apart
    from taxonomy.training.plan import make_plan

    config = checkpoints.saved_config(workdir).copy_and_resolve_references().unlock()
    given = {
        "data.source": _SOURCE.value,
        "mesh": _MESH.value,
        "evaluation.metrics": _METRICS.value and tuple(m.strip() for m in config_lib.split(_METRICS.value)),
        "evaluation.pairs": _PAIRS.value,
    }
    for key, value in given.items():
        if value is not None:
            config_lib.assign(config, key, value)
    plan = make_plan(config, jax.device_count())
    trainer = loop.make_trainer(plan)
    _, params = checkpoints.restore_params(workdir, trainer.shardings.params)
    tokenizer = checkpoints.restore_tokenizer(workdir)
    prepared = loop.prepare_data(config, say=lambda line: None, tokenizer=tokenizer, splits=(_SPLIT.value,))
    result = loop.evaluate(trainer, params, prepared, plan, _TOKENS.value, split=_SPLIT.value)
    if not distributed.first():
        return
    if config.evaluation.metrics and not distributed.several():
        said = answers.answer(plan, params, prepared, config.evaluation.pairs, _SPLIT.value)
        result |= {"pairs": len(said), "scores": answers.scores(config.evaluation.metrics, said)}
    if _JSON.value:
        print(json.dumps({"workdir": workdir, "split": _SPLIT.value, **result}))
        return
    print(f"{workdir}, {_SPLIT.value} split, {result['tokens']:,} tokens")
    for key in (key for key in result if key not in ("tokens", "pairs", "scores") and "/" not in key):
        print(f"  {key.replace('_', ' '):18} {result[key]:.4f}")
    for part, figures in apart(result).items():
        print(f"  {part:14} " + "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items()))
    if "scores" in result:
        print(f"greedy answers to {result['pairs']:,} pairs")
        for name, value in result["scores"].items():
            print(f"  {name:30} {value:.4f}")


def _refuse_together() -> None:
    """Raises UserError for flags of which one says nothing beside the other."""
    tasks = _TASKS.value is not None
    if (tasks or _METRICS.value) and distributed.told():
        raise UserError(f"--{'tasks' if tasks else 'metrics'}: asked by one process; --coordinator says that there are several")
    for flag in (_SPLIT, _TOKENS, _SOURCE, _METRICS, _PAIRS, _MESH) if tasks else (_FEWSHOT, _LIMIT):
        if flag.value != flag.default:
            raise UserError(f"--{flag.name}: {'not with' if tasks else 'only with'} --tasks")


def _ask(workdir: str) -> None:
    """Asks the tasks and prints what the model reached."""
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: what lm_eval has to tell of its progress is told here

    from taxonomy import config as config_lib
    from taxonomy.inference import tasks
    from taxonomy.training import checkpoints

    sentences = [sentence.strip() for sentence in config_lib.split(_TASKS.value)]
    tasks.check(sentences)
    config, params = checkpoints.restore_params(workdir)
    tokenizer = checkpoints.restore_tokenizer(workdir)
    results = tasks.run(config, params, tokenizer, sentences, fewshot=_FEWSHOT.value, limit=_LIMIT.value, told=_tell)
    if _JSON.value:
        print(json.dumps({"workdir": workdir, "tasks": results}))
        return
    print(f"{workdir}\n{'task':30} {'documents':>9} {'shots':>5}  {'metric':30} {'value':>10} {'error':>10}")
    for name, figures in results.items():
        _show(name, figures)


def _show(name: str, figures: Mapping[str, Any]) -> None:
    """A line for each metric of a task."""
    shown = [f"{name:30}", *(f"{'' if figures[key] is None else figures[key]:>{width}}" for key, width in _COUNTS.items())]
    for metric in (key for key in figures if key not in _COUNTS and "_stderr" not in key):
        stem, space, chosen = metric.partition(" ")
        error = figures.get(f"{stem}_stderr{space}{chosen}")
        print(*shown, f" {metric:30} {figures[metric]:10.4f}", "" if error is None else f"{error:10.4f}")


def _tell(what: str, done: int, of: int) -> None:
    """Progress, for those who look."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:,} of {of:,}", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
