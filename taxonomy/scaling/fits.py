"""What a fit says: one object, ready for JSON, which is kept in a workdir.

method, count (what params and flops are), runs, excluded (id and reason), delta, parameters, intervals (95%), standard_errors,
exponents (of N*, D* and, where the law has it, of the reducible loss, by FLOPs), exponent_intervals, objective, r2, starts, range
(of the runs), holdout, sensitivity, details of the method, warnings. `samples` are the bootstrapped parameters, for intervals of
answers.
"""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from taxonomy.errors import UserError, nearest
from taxonomy.scaling import bootstrap, data_constrained, sensitivity
from taxonomy.scaling.methods import METHODS, OPTIONAL, Method, Options
from taxonomy.scaling.results import Row, Runs

FOLDER = "fits"


def fit(runs: Runs, method: str, options: Options | None = None) -> dict[str, Any]:
    """The fit of a method to runs; raises UserError where they do not suffice."""
    options = options or Options()
    if method not in METHODS:
        raise UserError(f"--method: unknown method '{method}'{nearest(method, METHODS)}")
    chosen = METHODS[method]
    for name in OPTIONAL:
        if getattr(options, name) and name not in chosen.reads:
            readers = ", ".join(other for other, one in METHODS.items() if name in one.reads)
            why = "predicts no loss" if name == "holdout" else "does not read it"
            raise UserError(f"--{name}: {method} {why} (allowed: --method={readers})")
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
    sampled = {name: np.asarray(value, float) for name, value in chosen.exponents(samples).items()}
    result = {
        "method": method,
        "count": {"params": options.params, "flops": options.flops},
        "runs": len(runs),
        "excluded": runs.reasons(),
        "parameters": parameters,
        "intervals": bootstrap.intervals(samples),
        "standard_errors": bootstrap.standard_errors(samples),
        "bootstraps": bootstrap.drawn(samples),
        "exponents": by_flops,
        "exponent_intervals": bootstrap.intervals(sampled),
        "range": {
            name: [float(runs.column(name).min()), float(runs.column(name).max())] for name in ("params", "tokens", "flops", "loss")
        },
        **found,
    }
    if len(held_out):
        result["holdout"] = _holdout(chosen, held_out, parameters, samples, found["scatter"], options.seed)
    if options.sensitivity and chosen.law is not None:
        result["sensitivity"] = sensitivity.table(runs, chosen, parameters, options)
    return _plain(result | {"samples": {name: np.asarray(value, float).tolist() for name, value in samples.items()}})


def _plain(value: Any) -> Any:
    """The same for JSON, which knows no infinite numbers: None in their place."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _holdout(method: Method, runs: Runs, parameters: dict, samples: dict, scatter: float, seed: int) -> list[dict[str, Any]]:
    """What the law says of runs that it was not fitted to."""
    said = predicted(method, runs.rows, parameters, samples, scatter, seed)
    return [judged(one, row["loss"]) for one, row in zip(said, runs.rows, strict=True)]


def predicted(
    method: Method, rows: Iterable[Row], parameters: dict, samples: dict, scatter: float, seed: int
) -> list[dict[str, Any]]:
    """The loss that a law predicts of each run; an interval is that of one run, which scatters about the law."""
    generator, drawn, found = np.random.default_rng(seed), bootstrap.drawn(samples), []
    for row in rows:
        given = (row["params"], row["tokens"], *([row["unique_tokens"]] if method.loss is data_constrained.loss else []))
        one = {"id": row["id"], "predicted": float(method.loss(parameters, *given))}
        if drawn:
            one["interval"] = bootstrap.interval(method.loss(samples, *given) * np.exp(scatter * generator.standard_normal(drawn)))
        found.append(one)
    return found


def judged(prediction: dict[str, Any], loss: float) -> dict[str, Any]:
    """A prediction beside the loss that came out."""
    one = prediction | {"loss": loss, "error_percent": 100 * (prediction["predicted"] / loss - 1)}
    if "interval" in one:
        low, high = one["interval"]
        one["inside"] = low is not None and low <= loss <= high
    return one


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
    return result | {"samples": arrays(result["samples"])}


def arrays(samples: dict[str, list[float | None]]) -> dict[str, np.ndarray]:
    """Samples out of JSON."""
    return {name: np.array([np.nan if v is None else v for v in values], float) for name, values in samples.items()}
