"""Every way to fit, by name: what it takes of runs, and the closed forms of what it finds."""

import dataclasses
import functools
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
    sensitivity,
)
from taxonomy.scaling.results import Runs


@dataclasses.dataclass(frozen=True)
class Options:
    """How to fit. delta: Huber's, None for the method's own. params, flops: the counts taken. start: where to start alone.

    fixed: parameters that are not fitted (the first five of `data_constrained`). budgets: FLOPs of the curves of `isoflop`, and of
    what laws are fitted without. holdout: ids of runs that are predicted and not fitted.
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


# Options that not every method reads.
OPTIONAL = ("delta", "start", "fixed", "budgets", "holdout")
_OF_LAWS = ("delta", "start", "budgets", "holdout")


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to fit: what it makes of runs, and the closed forms of what it found. `loss` is None where it predicts none.

    reads: which of OPTIONAL mean something to it.
    """

    run: Callable[[Runs, Options], dict[str, Any]]
    exponents: Callable[..., dict]
    optimum: Callable[..., tuple] | None
    loss: Callable[..., Any] | None = None
    law: Callable[[Runs, Options], robust.Law] | None = None
    delta: float = robust.DELTA
    reads: tuple[str, ...] = ()


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
    squares = (np.log(loss / predicted) ** 2).sum()
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
        "scatter": float(np.sqrt(squares / max(len(runs) - len(law.names), 1))),
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
    module: types.ModuleType,
    build: Callable[[Runs, Options], robust.Law],
    delta: float = robust.DELTA,
    run=None,
    reads: tuple[str, ...] = _OF_LAWS,
) -> Method:
    run = run or functools.partial(_fit_law, build=build, delta=delta)
    return Method(run, module.exponents, module.optimum, module.loss, build, delta, reads)


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
    base = law.parameters(robust.fit(law, robust.DELTA if options.delta is None else options.delta).point_P[None])
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
    if options.bootstraps:
        found["warnings"].append(f"{', '.join(parametric.Parametric.names)} are held: intervals leave out theirs")
    return found | {"profile": profile}


def _fit_isoflop(runs: Runs, options: Options) -> dict[str, Any]:
    curves, runs = isoflop.curves(runs, options.budgets)
    parameters, samples = isoflop.fit(curves, options.bootstraps, options.seed)
    warnings = [warning for curve in curves for warning in curve.warnings]
    warnings += [f"{curve.flops:.3g} FLOPs: not used, {curve.reason}" for curve in curves if curve.reason]
    if options.bootstraps and not bootstrap.drawn(samples):
        warnings.append("a parabola through 3 sizes each leaves no residuals: no intervals")
    result = {"parameters": parameters, "samples": samples, "curves": [c.shown() for c in curves], "warnings": warnings}
    if options.sensitivity:
        result["sensitivity"] = _isoflop_otherwise(runs, curves, parameters, options)
    return result | {"fitted": runs}


def _isoflop_otherwise(runs: Runs, curves: list[isoflop.Curve], parameters: dict, options: Options) -> list[dict[str, Any]]:
    """What the parabolas say without each budget, and by every other count of parameters."""
    used = [curve for curve in curves if not curve.reason]
    found = [("as fitted", parameters)]
    if len(used) > 2:
        found += [(f"without {one.flops:.2g} FLOPs", isoflop.fit([c for c in used if c is not one])[0]) for one in used]
    for name in runs.counts("params"):
        if name != options.params and (runs.column(name) != runs.params).any():
            others, _ = isoflop.curves(runs.counted(params=name), options.budgets)
            if sum(not curve.reason for curve in others) > 1:
                found.append((f"count {name}", isoflop.fit(others)[0]))
    far = sensitivity.FURTHER * float(runs.flops.max())
    return [sensitivity.line(change, METHODS["isoflop"], one, far) for change, one in found]


def _fit_envelope(runs: Runs, options: Options) -> dict[str, Any]:
    curves = any("curve" in row for row in runs.rows)
    if curves and options.flops != "flops":
        raise UserError(f"--count_flops: training curves are counted by 'flops' alone (allowed: flops), got '{options.flops}'")
    sizes = envelope.sizes(runs)
    parameters, samples, found = envelope.fit(sizes, options.bootstraps, options.seed)
    used = found.best_K >= 0
    warnings = []
    if curves:
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
    "isoflop": Method(_fit_isoflop, _line_exponents, _line_optimum, reads=("budgets",)),
    "envelope": Method(_fit_envelope, _line_exponents, _line_optimum),
    "kaplan": _law_method(kaplan, lambda runs, _: kaplan.Kaplan.of(runs)),
    "overtraining": _law_method(overtraining, lambda runs, _: overtraining.Overtraining.of(runs), robust.SQUARES),
    "data_constrained": _law_method(data_constrained, _data_constrained, run=_fit_data_constrained, reads=("fixed", *_OF_LAWS)),
    "hyperparameters": Method(_fit_hyperparameters, lambda _: {}, None),
}
