"""What to train, from a kept fit: N*, D* and the loss to expect, with intervals and how far beyond the runs the question is."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from taxonomy.errors import UserError
from taxonomy.scaling import bootstrap, hyperparameters
from taxonomy.scaling.fits import METHODS, Method

_ANCHOR = 1e21
_FAR = 1000.0
THESE = "these runs"


def ask(
    fit: Mapping[str, Any], flops: float | None = None, params: float | None = None, tokens: float | None = None
) -> dict[str, Any]:
    """The answer to one or two of compute, size and data; C = 6 N D gives a third, the fit the rest.

    One of them: the compute-optimal model. Two: the model that they say, and what its FLOPs could have had. The interval of a
    loss is the law's; one run scatters about it by `scatter`, the relative deviation of the fitted runs.
    """
    method = METHODS[fit["method"]]
    if method.optimum is None:
        raise UserError(f"ask: {fit['method']} says nothing of sizes; fit another method")
    given = [value is not None for value in (flops, params, tokens)]
    if sum(given) not in (1, 2):
        raise UserError("ask: say one or two of --flops, --params and --tokens, or --chips and --hours")
    parameters, samples = fit["parameters"], fit["samples"]
    optimal = sum(given) == 1
    if optimal:
        params, tokens = (float(value) for value in _optimal(method, parameters, flops, params, tokens))
    elif flops is not None:
        params = params if params is not None else flops / 6 / tokens
        tokens = flops / 6 / params
    spent = flops if flops is not None else 6 * params * tokens
    answer: dict[str, Any] = {"method": fit["method"], "optimal": optimal, "flops": spent, "params": params, "tokens": tokens}
    answer |= {"tokens_per_param": tokens / params, "loss": None, "intervals": {}, "warnings": []}
    drawn = bootstrap.drawn(samples)
    if optimal and drawn:
        several = _optimal(method, samples, *(v if g else None for v, g in zip((flops, params, tokens), given, strict=True)))
        sampled = {"params": several[0], "tokens": several[1], "tokens_per_param": several[1] / several[0]}
        answer["intervals"] = bootstrap.intervals({name: np.asarray(value, float) for name, value in sampled.items()})
    if method.loss is not None:
        answer["loss"] = float(method.loss(parameters, params, tokens))
        answer["scatter"] = fit.get("scatter")
        if drawn:
            answer["intervals"]["loss"] = bootstrap.interval(method.loss(samples, params, tokens))
        if not optimal:
            best = method.optimum(parameters, spent)
            answer["optimum"] = {"params": float(best[0]), "tokens": float(best[1]), "loss": float(method.loss(parameters, *best))}
    largest = {name: fit["range"][name][1] for name in ("flops", "params", "tokens")}
    answer["extrapolation"] = {name: answer[name] / largest[name] for name in largest}
    if answer["extrapolation"]["flops"] > _FAR:
        factor = answer["extrapolation"]["flops"]
        answer["warnings"].append(f"{factor:.3g} times the largest run's FLOPs: the interval holds only if the law does")
    return answer


def _optimal(method: Method, parameters: Mapping[str, Any], flops, params, tokens) -> tuple:
    """N*, D* for one of them: both are powers of the compute, so that any of the three gives it."""
    if flops is None:
        at, power = method.optimum(parameters, _ANCHOR), method.exponents(parameters)
        name, wanted, here = ("params", params, at[0]) if params is not None else ("tokens", tokens, at[1])
        flops = _ANCHOR * (wanted / here) ** (1 / power[name])
    N, D = method.optimum(parameters, flops)
    return (N if params is None else params + 0 * N), (D if tokens is None else tokens + 0 * D)


def recipe(answer: Mapping[str, Any], fit: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learning rate and batch for the model: by a fit of `hyperparameters`, or the Step Law (Li et al. 2025, arXiv:2503.04715)."""
    law = hyperparameters.STEP_LAW if fit is None else fit["parameters"]
    rate = hyperparameters.learning_rate(law, answer["params"], answer["tokens"])
    source = "the Step Law, arXiv:2503.04715" if fit is None else THESE
    return {
        "learning_rate": float(rate),
        "batch_tokens": float(hyperparameters.batch(law, answer["params"], answer["tokens"])),
        "by": source,
    }


def nearest_config(answer: Mapping[str, Any], fit: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The size of a family nearest to N, the tokens that the FLOPs leave it, what the rounding costs, and its command.

    A size counts as the fitted runs did where that count is one of `conventions.parameters`, otherwise with everything active.
    """
    from taxonomy import config as config_lib
    from taxonomy.scaling import conventions

    configs = {f"{family}:{size}" if size else family: None for size in config_lib.sizes(family)}
    counted = {name: conventions.parameters(config_lib.load_config(name).model) for name in configs}
    rule = fit["count"]["params"].removeprefix("params_")
    rule = rule if rule in next(iter(counted.values())) else "total"
    name = min(counted, key=lambda one: abs(math.log(counted[one][rule] / answer["params"])))
    params, config = counted[name][rule], config_lib.load_config(name)
    tokens = answer["flops"] / 6 / params
    result = {"config": name, "params": params, "counted": rule, "tokens": tokens, "loss": None}
    loss = METHODS[fit["method"]].loss
    if loss is not None:
        result["loss"] = float(loss(fit["parameters"], params, tokens))
        result["loss_of_rounding"] = result["loss"] - answer["loss"]
    result["flops"] = {name: tokens * each for name, each in conventions.training_flops(config.model).items()}
    # A recipe counts steps or tokens, and only one of them may stand.
    steps = "" if config.train.steps is None else "--config.train.steps=None "
    place = f"runs/{name.replace(':', '-')}"
    result["command"] = f"python -m taxonomy.train --config={name} {steps}--config.train.tokens={tokens:.4g} --workdir={place}"
    return result
