"""Configs that can be trained as printed: a study's own at another budget, or any family's in the shape of a ladder."""

import json
import math
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from taxonomy import config as config_lib
from taxonomy import notation, spec
from taxonomy.scaling import cells as cells_lib
from taxonomy.scaling import conventions, resolve, shapes, study
from taxonomy.scaling.ask import THESE
from taxonomy.scaling.cells import Cell
from taxonomy.scaling.methods import METHODS
from taxonomy.scaling.shown import number
from taxonomy.scaling.study import Study

_LEAST_STEPS = 100  # a batch that leaves fewer is made smaller
# Below it the laws of others say nonsense, and the family's own rate and batch stay.
_LEAST_PARAMS = 1e7


def ready(workdir: str | pathlib.Path, answer: Mapping[str, Any], fit: Mapping[str, Any], family: str | None) -> dict[str, Any]:
    """What to train for an answer: with a family that family, in the shape of the workdir's study; else the study's own model.

    Where there is no study the family's own sizes say how deep a width is.
    """
    what, planned = cells_lib.read(workdir) if cells_lib.exists(workdir) else (None, [])
    if family is None:
        return of_study(what, planned, answer, fit)
    if planned:
        ladder = [(cell.counts["d_model"], cell.counts["layers"]) for cell in planned]
    else:
        sizes = config_lib.sizes(family)
        names = [f"{family}:{size}" if size else family for size in sizes if size != "tiny" or len(sizes) == 1]
        models = [spec.model(config_lib.load_config(name).model.to_dict()) for name in names]
        ladder = [(model.d_model, sum(map(len, model.stacks.values()))) for model in models]
    return of_family(answer["nearest"]["config"], answer, fit, sorted(set(ladder)), answer["nearest"]["counted"])


def of_study(what: Study, planned: Sequence[Cell], answer: Mapping[str, Any], fit: Mapping[str, Any]) -> dict[str, Any]:
    """The rung of a study's ladder that is nearest to N, trained by its rules on the FLOPs of the answer."""
    rung = min(planned, key=lambda cell: abs(math.log(cell.counts["params"] / answer["params"])))
    values = {name: value for name, value in rung.values.items() if name not in what.axes}
    changes = dict(budgets=(), holdout=(), tokens=None, seeds=(0,), ladder=(values,), least_steps=1)
    axes = {name: one[:1] for name, one in what.axes.items()}
    (cell,) = resolve.resolve(what.but(**changes, axes=axes, compute=f"{answer['flops']:.6e}"))
    variables = {name: value for name, value in cell.values.items() if "." not in name}
    base = study.fill(what.base, variables, "study.base")
    return _shown(base, cell.config, fit, cell.counts["params"], cell.counts["tokens"], answer)


def of_family(
    config_name: str, answer: Mapping[str, Any], fit: Mapping[str, Any], ladder: Sequence[tuple[int, int]], rule: str
) -> dict[str, Any]:
    """A family's config with N parameters as `rule` counts, in the shape of a ladder of (d_model, layers)."""
    config = config_lib.load_config(config_name)
    section = shapes.nearest(
        config.model.to_dict(), shapes.depth(ladder), answer["params"], lambda model: conventions.parameters(model)[rule]
    )
    params, context = conventions.parameters(section)[rule], config.train.context or config.model.context
    tokens = answer["flops"] / 6 / params
    recipe, changed = answer["recipe"], json.loads(config_lib.to_json(config))
    if params < _LEAST_PARAMS and recipe["by"] != THESE:
        recipe = {"learning_rate": None, "batch_tokens": config.train.batch_tokens}
    batch = max(1, round(min(recipe["batch_tokens"], tokens / _LEAST_STEPS) / context)) * context
    changed["model"] = section
    changed["train"] |= {"steps": max(1, round(tokens / batch)), "tokens": None, "batch_tokens": batch, "batch_ramp": None}
    if recipe["learning_rate"] is not None:
        changed["train"]["schedule"] = _with_peak(changed["train"]["schedule"], recipe["learning_rate"])
    return _shown(config_name, changed, fit, params, tokens, answer)


def _with_peak(schedule: str, rate: float) -> str:
    node = notation.parse(schedule)
    keywords = tuple((name, notation.Literal(float(f"{rate:.3g}")) if name == "peak" else value) for name, value in node.keywords)
    return notation.show(notation.Call(node.identifier, node.positional, keywords))


def _shown(base: str, config: Mapping[str, Any], fit: Mapping[str, Any], params, tokens, answer) -> dict[str, Any]:
    found = {"base": base, "params": params, "tokens": tokens, "d_model": config["model"]["d_model"], "loss": None}
    found["decoder"] = config["model"]["decoder"]
    loss = METHODS[fit["method"]].loss
    if loss is not None:
        found["loss"] = float(loss(fit["parameters"], params, tokens))
        found["loss_of_rounding"] = found["loss"] - answer["loss"]
    place = pathlib.PurePosixPath("runs", re.sub(r"[^a-z0-9.]+", "-", f"{base.partition(':')[0]}-{number(params)}".lower()))
    return found | {"command": f"python -m taxonomy.train {flags(base, config)} --workdir={place}"}


def flags(base: str, config: Mapping[str, Any]) -> str:
    """The flags that make a resolved config out of the one named."""
    before = json.loads(config_lib.to_json(config_lib.load_config(base)))
    changed = [
        _flag(key, value)
        for section in ("seed", "mesh", "model", "train", "data", "evaluation", "checkpoint")
        for key, value in _differences(section, before.get(section), config.get(section))
    ]
    return " ".join([shlex.quote(f"--config={base}"), *changed])


def _flag(key: str, value: Any) -> str:
    """A flag as a person writes it, with double quotes where some are needed and the value has nothing that they leave open."""
    word, text = f"--config.{key}={value}", str(value)
    if shlex.quote(word) == word:
        return word
    return f'--config.{key}="{text}"' if not set(text) & set('"$`\\!') else shlex.quote(word)


def _differences(key: str, old: Any, new: Any) -> list[tuple[str, Any]]:
    if isinstance(new, Mapping):
        old = old if isinstance(old, Mapping) else {}
        return [one for name in new for one in _differences(f"{key}.{name}", old.get(name), new[name])]
    return [] if old == new else [(key, new)]
