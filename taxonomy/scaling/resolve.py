"""From a study to its cells: formulas computed, parameters counted, budgets turned into steps, every config read once."""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from taxonomy import config as config_lib
from taxonomy import registry, sharding, spec
from taxonomy.errors import UserError
from taxonomy.scaling import conventions, study
from taxonomy.scaling.cells import Cell
from taxonomy.scaling.shown import number
from taxonomy.scaling.study import Study

# Keys that decide nothing of a result.
_APART = ("name", "about", "report", "checkpoint")


@dataclasses.dataclass(frozen=True)
class _Model:
    """A rung with one combination of axes: the config so far, what formulas may read, counts and FLOPs a token by rule."""

    config: ml_collections.ConfigDict
    values: dict[str, Any]
    scalars: dict[str, Any]
    shape: dict[str, int]
    params: dict[str, int]
    flops: dict[str, float]

    @property
    def label(self) -> list[str]:
        return [value if isinstance(value, str) else f"{name.rpartition('.')[2]}{value}" for name, value in self.values.items()]


def resolve(what: Study) -> list[Cell]:
    """The cells of a study, cheapest and smallest first, those held out last. Raises UserError."""
    found = list(_cells(what))
    names = [cell.id for cell in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"study: two cells are called '{twice[0]}'; a variable of the ladder must tell them apart")
    return sorted(found, key=lambda cell: (cell.holdout, cell.budget or cell.counts["flops"], cell.counts["params"], cell.id))


def centre(what: Study, flops: float) -> float:
    """The parameters in the middle of a budget's curve. Twenty tokens for each are C = 6 N D = 120 N^2."""
    middle = study.compute(what.centre, {"flops": flops}, "study.centre") if what.centre else math.sqrt(flops / 120)
    if not middle > 0:
        raise UserError(f"study.centre: expected parameters above 0, got {middle:g} for {flops:g} FLOPs")
    return middle


def _cells(what: Study) -> Iterator[Cell]:
    combinations = [dict(zip(what.axes, values, strict=True)) for values in itertools.product(*what.axes.values())]
    models = [[_model(what, rung, axes) for axes in combinations] for rung in what.ladder]
    reference = [rung[0].params[what.count] for rung in models]
    spent = [(flops, False, what.sizes) for flops in what.budgets] + [(flops, True, what.holdout_sizes) for flops in what.holdout]
    for flops, holdout, sizes in spent:
        for place, model, seed in itertools.product(_nearest(what, reference, flops, sizes), range(len(combinations)), what.seeds):
            yield _cell(what, models[place][model], seed, flops, budget=flops, holdout=holdout)
    if not what.budgets:
        for rung, params in zip(models, reference, strict=True):
            for model, seed in itertools.product(rung, what.seeds):
                known = model.scalars | {"params": params}
                yield _cell(what, model, seed, study.compute(what.compute, known, "study.compute") if what.compute else None)


def _nearest(what: Study, params: list[int], flops: float, sizes: int | None) -> list[int]:
    """The places of the rungs nearest to the middle of a budget's curve."""
    middle = centre(what, flops)
    return sorted(range(len(params)), key=lambda place: abs(math.log(params[place] / middle)))[: sizes or len(params)]


def _model(what: Study, rung: Mapping[str, Any], axes: Mapping[str, Any]) -> _Model:
    variables = {name: value for name, value in {**rung, **axes}.items() if "." not in name}
    config = ml_collections.ConfigDict(config_lib.load_config(study.fill(what.base, variables, "study.base")))
    for key, value in _settings(what, axes).items():
        if _of_model(key):
            config_lib.assign(config, key, study.fill(value, variables, f"study.settings.{key}"))
    parsed = spec.model(config.model.to_dict())
    context = config.train.context or parsed.context
    params = conventions.parameters(parsed)
    shape = {"d_model": parsed.d_model, "layers": sum(len(layers) for layers in parsed.stacks.values())}
    known = {"params": params[what.count], "context": context} | shape | variables
    return _Model(config, {**rung, **axes}, known, shape, params, conventions.training_flops(parsed, context))


def _settings(what: Study, axes: Mapping[str, Any]) -> dict[str, Any]:
    return {**what.settings, **{name: value for name, value in axes.items() if "." in name}}


def _of_model(key: str) -> bool:
    return key.startswith("model.") or key == "train.context"


def _cell(what: Study, model: _Model, seed: int, flops: float | None, budget: float | None = None, holdout: bool = False) -> Cell:
    config, known, each = ml_collections.ConfigDict(model.config), dict(model.scalars), model.flops[what.flops]
    settings = {key: value for key, value in _settings(what, model.values).items() if not _of_model(key)}
    tokens = study.compute(what.tokens, known, "study.tokens") if what.tokens else flops / each if flops else None
    if tokens is not None:
        known |= {"tokens": tokens, "flops": tokens * each}
    context, key = known["context"], "train.batch_tokens"
    asked = study.fill(settings.pop(key, config.train.batch_tokens), known, f"study.settings.{key}")
    batch = max(1, round(float(asked) / context)) * context
    config_lib.assign(config, key, batch)
    config_lib.assign(config, "seed", seed)
    known["batch_tokens"] = batch
    if tokens is not None:
        known["steps"] = max(1, round(tokens / batch))
        settings |= {"train.tokens": None, "train.steps": known["steps"]}
    for key, value in settings.items():
        config_lib.assign(config, key, study.fill(value, known, f"study.settings.{key}"))
    label = [number(budget)] * (budget is not None) + model.label + [f"seed{seed}"] * (len(what.seeds) > 1)
    config_lib.assign(config, "name", "-".join(label) or "run")
    steps = _checked(config)
    counts = {"params": model.params[what.count], "tokens": steps * batch, "flops": steps * batch * each, "steps": steps}
    counts |= {f"params_{rule}": count for rule, count in model.params.items()}
    counts |= {f"flops_{rule}": steps * batch * one for rule, one in model.flops.items()}
    counts |= model.shape | {"batch_tokens": batch, "learning_rate": _peak(config), "seed": seed}
    few = f"{steps} steps, fewer than {what.least_steps}" if steps < what.least_steps else ""
    resolved = json.loads(config_lib.to_json(config))
    return Cell(config.name, _key(resolved), resolved, model.values, counts, budget, holdout, few)


def _checked(config: ml_collections.ConfigDict) -> int:
    """The steps of a config, all of whose fields are read. Raises UserError."""
    from taxonomy.training.plan import make_plan

    if config.train.batch_ramp:
        raise UserError(f"config.train.batch_ramp: {config.train.batch_ramp}; a study's runs have one batch each, set it to None")
    try:
        # How many devices there will be is not known yet; an open size takes one.
        return make_plan(config, sharding.devices_of(config.mesh.replace(":-1", ":1"))).steps
    except UserError as error:
        raise UserError(f"study: {config.name}: {error}") from None


def _peak(config: ml_collections.ConfigDict) -> float:
    return registry.create("schedule", config.train.schedule, "config.train.schedule").peak


def _key(config: dict[str, Any]) -> str:
    """A cell's name as one of a folder, with a hash of all that decides its result."""
    decisive = {key: value for key, value in config.items() if key not in _APART}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', config['name']).strip('-')[:80]}-{digest}"
