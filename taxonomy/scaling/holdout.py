"""Predictions that are frozen before what they predict is trained.

`prediction.json` says the loss of every cell that is held out, with 95%, what it was fitted to, and a hash of all that. It is
written once, when no such cell has been begun, and each result names the hash under which it was trained: what was frozen
afterwards or has been changed since is refused.
"""

import datetime
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from taxonomy.errors import UserError
from taxonomy.scaling import cells, claims, files, fits, runner
from taxonomy.scaling.cells import FINISHED, Cell
from taxonomy.scaling.methods import METHODS, Options
from taxonomy.scaling.report import VERDICT
from taxonomy.scaling.results import Runs
from taxonomy.scaling.study import Study

FILE = "prediction.json"
_FITTED = ("id", "params", "tokens", "flops", "loss")


def freeze(workdir: str | pathlib.Path, planned: Sequence[Cell], options: Options, method: str = "parametric") -> dict[str, Any]:
    """The prediction of a workdir, fitted and written now where there is none. Raises UserError where it would not be honest."""
    held = [cell for cell in planned if cell.holdout and not cell.left_out]
    if not held:
        raise UserError("sweep check: the study holds nothing out")
    path = pathlib.Path(workdir) / FILE
    if not path.is_file():
        try:
            _refuse_early(workdir, planned, held)
        except UserError:
            if not path.is_file():  # another process may have frozen it and gone on meanwhile
                raise
        else:
            content = _prediction(cells.gather(workdir, list(planned)), held, options, method)
            files.exclusive(path, json.dumps(content, indent=1) + "\n")
    return _read(path, workdir, held)


def check(
    workdir: str | pathlib.Path, study: Study, planned: list[Cell], prediction: dict[str, Any], lease: float
) -> dict[str, Any]:
    """Trains what is held out, together with whoever else does, and compares."""
    held = [cell for cell in planned if cell.holdout and not cell.left_out]
    with claims.Worker(workdir, lease) as worker:
        runner.work(workdir, held, runner.trained(study, {"prediction": prediction["sha256"]}), worker)
    runs = cells.gather(workdir, planned)
    return verdict(workdir, held, _read(pathlib.Path(workdir) / FILE, workdir, held), runs)


def verdict(workdir: str | pathlib.Path, held: Sequence[Cell], prediction: dict[str, Any], runs: Runs) -> dict[str, Any]:
    """Each prediction beside what came out, kept as `check.json`."""
    found = []
    for one, cell in zip(prediction["cells"], held, strict=True):
        result = cell.result(workdir)
        ended = result is not None and result["state"] == FINISHED
        found.append(fits.judged(one, result["row"]["loss"]) if ended else one | {"reason": result["row"]["excluded"]})
    result = {"sha256": prediction["sha256"], "frozen": prediction["frozen"], "runs": prediction["runs"], "cells": found}
    result["runs_changed"] = _digest(_fitted(runs)) != prediction["data"]
    files.replace(pathlib.Path(workdir) / VERDICT, json.dumps(result, indent=1) + "\n")
    return result


def _refuse_early(workdir: str | pathlib.Path, planned: Sequence[Cell], held: Sequence[Cell]) -> None:
    begun = [cell for cell in held if cell.folder(workdir).exists()]
    if begun:
        said = f"{begun[0].id} was begun before a prediction was frozen, so that nothing can be predicted of it any more"
        raise UserError(f"sweep check: {said}. Use a new --workdir")
    fitted = [cell for cell in planned if not cell.holdout and not cell.left_out]
    left = [cell for cell in fitted if cell.result(workdir) is None]
    if left:
        raise UserError(
            f"sweep check: {len(left)} of {len(fitted)} cells have not ended, the first {left[0].id}; `sweep run` first"
        )


def _prediction(runs: Runs, held: Sequence[Cell], options: Options, method: str) -> dict[str, Any]:
    chosen = METHODS[method]
    if chosen.loss is None:
        allowed = ", ".join(name for name, one in METHODS.items() if one.loss is not None)
        raise UserError(f"--method: {method} predicts no loss (allowed: {allowed})")
    fit = fits.fit(runs, method, options)
    samples = fits.arrays(fit.pop("samples"))
    rows = [{"id": cell.id, **cell.counts} for cell in held]
    said = fits.predicted(chosen, rows, fit["parameters"], samples, fit["scatter"], options.seed)
    content = {
        "frozen": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "runs": len(runs),
        "data": _digest(_fitted(runs)),
        "fit": fit,
        "cells": [one | {"key": cell.key} for one, cell in zip(said, held, strict=True)],
    }
    return content | {"sha256": _digest(content)}


def _read(path: pathlib.Path, workdir: str | pathlib.Path, held: Sequence[Cell]) -> dict[str, Any]:
    """A prediction as it was frozen. Raises UserError where it is not."""
    content = json.loads(path.read_text())
    sealed = content.get("sha256")
    if sealed != _digest({key: value for key, value in content.items() if key != "sha256"}):
        raise UserError(f"sweep check: {path} was changed after it was frozen; what it says is no prediction")
    if [one["key"] for one in content["cells"]] != [cell.key for cell in held]:
        raise UserError(f"sweep check: {path} predicts other cells than the study holds out now. Use a new --workdir")
    for cell in held:
        result = cell.result(workdir)
        if result and result["state"] == FINISHED and result["row"].get("prediction") != sealed:
            raise UserError(f"sweep check: {cell.id} was trained under another prediction than that of {path}")
    return content


def _fitted(runs: Runs) -> list[list[Any]]:
    return [[row[name] for name in _FITTED] for row in runs.rows]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
