"""Every way to fit, by name, and what a fit says: one object, ready for JSON.

method, count (what params and flops are), runs, excluded (id and reason), delta, parameters, intervals (95%), standard_errors,
exponents (of N*, D* and, where the law has it, of the reducible loss, by FLOPs), exponent_intervals, objective, r2, starts, range
(of the runs), holdout, sensitivity, details of the method, warnings. `samples` are the bootstrapped parameters, for intervals of
answers.
"""

import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from taxonomy.errors import UserError, nearest
from taxonomy.scaling import (
    bootstrap,
    data_constrained,
    envelope,
    hyperparameters,
    isoflop,
    kaplan,
    overtraining,
    parametric,
    robust,
)
from taxonomy.scaling.results import Runs

FOLDER = "fits"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to fit. delta: Huber's, None for the method's own. params, flops: the counts taken. start: where to start alone.

    fixed: parameters that are not fitted (the first five of `data_constrained`). budgets: FLOPs of the curves of `isoflop`.
    holdout: ids of runs that are predicted and not fitted.
    """

    bootstraps: int = 1000
    seed: int = 0
    delta: float | None = None
    params: str = "params"
    flops: str = "flops"
    start: dict[str, float] | None = None
    fixed: dict[str, float] | None = None
    budgets: list[float] | None = None
    holdout: tuple[str, ...] = ()
    sensitivity: bool = True


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to fit: what it makes of runs, and the closed forms of what it found. `loss` is None where it predicts none."""

    run: Callable[[Runs, Options], dict[str, Any]]
    exponents: Callable[..., dict]
    optimum: Callable[..., tuple] | None
    loss: Callable[..., Any] | None = None
    law: Callable[[Runs, Options], robust.Law] | None = None
    delta: float = robust.DELTA


def fit(runs: Runs, method: str, options: Options | None = None) -> dict[str, Any]:
    """The fit of a method to runs; raises UserError where they do not suffice."""
    options = options or Options()
    if method not in METHODS:
        raise UserError(f"--method: unknown method '{method}'{nearest(method, METHODS)}")
    chosen = METHODS[method]
    runs = runs.counted(options.params, options.flops)
    unknown = set(options.holdout) - {row["id"] for row in runs.rows}
    if unknown:
        raise UserError(f"--holdout: no run has the id '{min(unknown)}'{nearest(min(unknown), (row['id'] for row in runs.rows))}")
    held_out = runs.subset([row["id"] in options.holdout for row in runs.rows])
    runs = runs.without(dict.fromkeys(options.holdout, "held out"))
    if not len(runs):
        raise UserError("fit: no run is left")
    found = chosen.run(runs, options)
    runs, parameters, samples = found.pop("fitted", runs), found.pop("parameters"), found.pop("samples")
    by_flops = {name: float(value) for name, value in chosen.exponents(parameters).items()}
    sampled = {name: np.asarray(value, float) for name, value in chosen.exponents(samples).items()} if options.bootstraps else {}
    result = {
        "method": method,
        "count": {"params": options.params, "flops": options.flops},
        "runs": len(runs),
        "excluded": runs.reasons(),
        "parameters": parameters,
        "intervals": bootstrap.intervals(samples) if options.bootstraps else {},
        "standard_errors": bootstrap.standard_errors(samples) if options.bootstraps else {},
        "bootstraps": options.bootstraps,
        "exponents": by_flops,
        "exponent_intervals": bootstrap.intervals(sampled),
        "range": {
            name: [float(runs.column(name).min()), float(runs.column(name).max())] for name in ("params", "tokens", "flops", "loss")
        },
        **found,
    }
    if len(held_out):
        result["holdout"] = _holdout(chosen, held_out, parameters, samples)
    if options.sensitivity and chosen.law is not None:
        from taxonomy.scaling import sensitivity

        result["sensitivity"] = sensitivity.table(runs, chosen, parameters, options)
    return _plain(result | {"samples": {name: np.asarray(value, float).tolist() for name, value in samples.items()}})


def _plain(value: Any) -> Any:
    """The same for JSON, which knows no infinite numbers: None in their place."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _fit_law(runs: Runs, options: Options, build: Callable[[Runs, Options], robust.Law], delta: float) -> dict[str, Any]:
    """Multi-start fit of a law, with bootstrapped parameters."""
    delta = options.delta if options.delta is not None else delta
    law = build(runs, options)
    if len(runs) < len(law.names):
        raise UserError(f"fit: {len(runs)} runs for {len(law.names)} parameters ({', '.join(law.names)})")
    starts = None if options.start is None else law.point(_complete(options.start, law))[None]
    found = robust.fit(law, delta, starts)
    parameters = {name: float(value[0]) for name, value in law.parameters(found.point_P[None]).items()}
    samples = {name: np.zeros(0) for name in parameters}
    if options.bootstraps:
        weights = bootstrap.weights(runs, options.bootstraps, options.seed)
        points, _ = robust.refit(law, weights, found.minima_SP, delta)
        samples = law.parameters(points)
    loss, predicted = np.exp(law.log_loss_R), robust.predictions(law, found.point_P[None])[0]
    warnings = []
    if len(runs) < 2 * len(law.names):
        warnings.append(f"{len(runs)} runs for {len(law.names)} parameters: the intervals say little")
    if found.agreeing < len(found.objectives_S) / 2:
        warnings.append(
            f"{found.agreeing} of {len(found.objectives_S)} starts came to the best objective: it has other minima or is flat"
        )
    variation = ((loss - loss.mean()) ** 2).sum()
    return {
        "parameters": parameters,
        "samples": samples,
        "delta": None if np.isinf(delta) else delta,
        "objective": found.objective,
        "scatter": float(np.std(np.log(loss / predicted))),
        "r2": float(1 - ((loss - predicted) ** 2).sum() / variation) if variation > 0 else None,
        "starts": {"tried": len(found.objectives_S), "agreeing": found.agreeing, "objectives": sorted(found.objectives_S.tolist())},
        "warnings": warnings,
    }


def _complete(start: dict[str, float], law: robust.Law) -> dict[str, float]:
    for name in start:
        if name not in law.names:
            raise UserError(f"--start: unknown parameter '{name}'{nearest(name, law.names)}")
    lacking = [name for name in law.names if name not in start]
    if lacking or min(start.values()) <= 0:
        raise UserError(f"--start: expected a positive number for each of {', '.join(law.names)}")
    return start


def _law_method(
    module: types.ModuleType, build: Callable[[Runs, Options], robust.Law], delta: float = robust.DELTA, run=None
) -> Method:
    run = run or functools.partial(_fit_law, build=build, delta=delta)
    return Method(run, module.exponents, module.optimum, module.loss, build, delta)


def _data_constrained(runs: Runs, options: Options) -> robust.Law:
    """The law with its first five numbers as they are given, or else fitted to the runs that repeat nothing."""
    names = parametric.Parametric.names
    if options.fixed is not None:
        lacking = [name for name in names if name not in options.fixed]
        if lacking or set(options.fixed) - set(names):
            raise UserError(f"--fixed: expected {', '.join(names)}, got {', '.join(options.fixed)}")
        return data_constrained.DataConstrained.of(runs, options.fixed)
    once = runs.subset(runs.tokens <= 1.001 * runs.column("unique_tokens"))
    if len(once) < 6:
        raise UserError(f"data_constrained: {len(once)} runs repeat nothing, at least 6 fit A, B, E, alpha, beta; or give --fixed")
    law = parametric.Parametric.of(once)
    base = law.parameters(robust.fit(law).point_P[None])
    return data_constrained.DataConstrained.of(runs, {name: float(base[name][0]) for name in names})


def _fit_data_constrained(runs: Runs, options: Options) -> dict[str, Any]:
    found = _fit_law(runs, options, _data_constrained, robust.DELTA)
    # How well R_D* is known: the objective where it is held and R_N* is best.
    law = _data_constrained(runs, options)
    delta = options.delta if options.delta is not None else robust.DELTA
    sizes = np.geomspace(0.05, 1000, 400)
    grid = np.log([(data, size) for data in data_constrained.PROFILE for size in sizes])
    values = robust.objectives(law, grid, delta).reshape(len(data_constrained.PROFILE), -1)
    profile = [
        {"R_D": data, "R_N": float(sizes[row.argmin()]), "objective": float(row.min())}
        for data, row in zip(data_constrained.PROFILE, values, strict=True)
    ]
    low = min(found["objective"], values.min())
    flat = [one["R_D"] for one in profile if one["objective"] <= 1.01 * low]
    if len(flat) > 1:
        said = f"R_D from {flat[0]:g} to {flat[-1]:g} is within 1% of the best objective: these runs do not say which"
        found["warnings"].append(said)
    return found | {"profile": profile}


def _fit_isoflop(runs: Runs, options: Options) -> dict[str, Any]:
    curves, runs = isoflop.curves(runs, options.budgets)
    parameters, samples = isoflop.fit(curves, options.bootstraps, options.seed)
    warnings = [warning for curve in curves for warning in curve.warnings]
    warnings += [f"{curve.flops:.3g} FLOPs: not used, {curve.reason}" for curve in curves if curve.reason]
    return {
        "parameters": parameters,
        "samples": samples,
        "curves": [c.shown() for c in curves],
        "warnings": warnings,
        "fitted": runs,
    }


def _fit_envelope(runs: Runs, options: Options) -> dict[str, Any]:
    sizes = envelope.sizes(runs)
    parameters, samples, found = envelope.fit(sizes, options.bootstraps, options.seed)
    used = found.best_K >= 0
    warnings = []
    if runs.rows and any("curve" in row for row in runs.rows):
        warnings.append("points before a learning rate has decayed are worse than runs that end there: exponents are biased")
    details = {
        "sizes": len(sizes),
        "best_somewhere": len(np.unique(found.best_K[used])),
        "points": int(used.sum()),
        "used_flops": [float(found.flops_K[used].min()), float(found.flops_K[used].max())],
    }
    return {"parameters": parameters, "samples": samples, "envelope": details, "warnings": warnings}


def _fit_hyperparameters(runs: Runs, options: Options) -> dict[str, Any]:
    cells, runs = hyperparameters.cells(runs)
    parameters, samples = hyperparameters.fit(cells, options.bootstraps, options.seed)
    lost = {}
    for name, law in (("fitted", parameters), ("step_law", hyperparameters.STEP_LAW)):
        percent = 100 * hyperparameters.regret(cells, law)
        lost[name] = {"mean_percent": float(percent.mean()), "max_percent": float(percent.max())}
    return {"parameters": parameters, "samples": samples, "cells": len(cells), "regret": lost, "warnings": [], "fitted": runs}


def _line_exponents(parameters) -> dict:
    return {"params": parameters["params_exponent"], "tokens": parameters["tokens_exponent"]}


def _line_optimum(parameters, flops) -> tuple:
    p = parameters
    return p["params_coefficient"] * flops ** p["params_exponent"], p["tokens_coefficient"] * flops ** p["tokens_exponent"]


METHODS = {
    "parametric": _law_method(parametric, lambda runs, _: parametric.Parametric.of(runs)),
    "isoflop": Method(_fit_isoflop, _line_exponents, _line_optimum),
    "envelope": Method(_fit_envelope, _line_exponents, _line_optimum),
    "kaplan": _law_method(kaplan, lambda runs, _: kaplan.Kaplan.of(runs)),
    "overtraining": _law_method(overtraining, lambda runs, _: overtraining.Overtraining.of(runs), robust.SQUARES),
    "data_constrained": _law_method(data_constrained, _data_constrained, run=_fit_data_constrained),
    "hyperparameters": Method(_fit_hyperparameters, lambda _: {}, None),
}


def _holdout(method: Method, runs: Runs, parameters: dict, samples: dict) -> list[dict[str, Any]]:
    """What the law says of runs that it was not fitted to."""
    if method.loss is None:
        raise UserError("--holdout: this method predicts no loss")
    found = []
    for row in runs.rows:
        given = (row["params"], row["tokens"], *([row["unique_tokens"]] if method.loss is data_constrained.loss else []))
        predicted = float(method.loss(parameters, *given))
        one = {"id": row["id"], "loss": row["loss"], "predicted": predicted, "error_percent": 100 * (predicted / row["loss"] - 1)}
        if len(next(iter(samples.values()))):
            low, high = bootstrap.interval(method.loss(samples, *given))
            one |= {"interval": [low, high], "inside": low is not None and low <= row["loss"] <= high}
        found.append(one)
    return found


def save(workdir: str | pathlib.Path, result: dict[str, Any]) -> pathlib.Path:
    """Keeps a fit as `fits/METHOD.json`."""
    path = pathlib.Path(workdir) / FOLDER / f"{result['method']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    return path


def kept(workdir: str | pathlib.Path, method: str) -> bool:
    return (pathlib.Path(workdir) / FOLDER / f"{method}.json").is_file()


def load(workdir: str | pathlib.Path, method: str) -> dict[str, Any]:
    """A kept fit, its samples as arrays."""
    if method not in METHODS:
        raise UserError(f"--method: unknown method '{method}'{nearest(method, METHODS)}")
    path = pathlib.Path(workdir) / FOLDER / f"{method}.json"
    if not path.is_file():
        raise UserError(f"--workdir: {path} does not exist; `sweep fit --method={method}` makes it")
    result = json.loads(path.read_text())
    samples = {name: np.array([np.nan if v is None else v for v in values], float) for name, values in result["samples"].items()}
    return result | {"samples": samples}
