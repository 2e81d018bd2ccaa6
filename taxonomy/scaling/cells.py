"""The cells of a study, as a workdir keeps them: all that follows a plan needs neither the study's file nor what counts parameters.

WORKDIR/plan.json             the study and its cells
WORKDIR/cells/KEY/claim.N     which worker has a cell, see `claims`
WORKDIR/cells/KEY/run.N       the workdir of its training
WORKDIR/cells/KEY/result.json how it ended
WORKDIR/results.jsonl         a line for each that ended, see `results`
"""

import dataclasses
import json
import pathlib
from typing import Any

from taxonomy.errors import UserError
from taxonomy.scaling import files, results
from taxonomy.scaling.study import Study

FILE, FOLDER, RESULT = "plan.json", "cells", "result.json"
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    key: the name of its folder, with a hash of its config. values: of the rung's variables and of the axes. counts: what results
    hold of it: params, tokens and flops by all rules, steps, batch_tokens, learning_rate, seed, shape. left_out: why it is not run.
    """

    id: str
    key: str
    config: dict[str, Any]
    values: dict[str, Any]
    counts: dict[str, float]
    budget: float | None = None
    holdout: bool = False
    left_out: str = ""

    def folder(self, workdir: str | pathlib.Path) -> pathlib.Path:
        return pathlib.Path(workdir) / FOLDER / self.key

    def result(self, workdir: str | pathlib.Path) -> dict[str, Any] | None:
        """How it ended: `state`, and the `row` of results; None while it has not."""
        path = self.folder(workdir) / RESULT
        return json.loads(path.read_text()) if path.is_file() else None


def exists(workdir: str | pathlib.Path) -> bool:
    """Whether a workdir is that of a study."""
    return (pathlib.Path(workdir) / FILE).is_file()


def save(workdir: str | pathlib.Path, study: Study, cells: list[Cell]) -> pathlib.Path:
    """Keeps a study and its cells in a workdir."""
    content = {"study": dataclasses.asdict(study), "cells": [dataclasses.asdict(cell) for cell in cells]}
    return files.replace(pathlib.Path(workdir) / FILE, json.dumps(content, indent=1) + "\n")


def read(workdir: str | pathlib.Path) -> tuple[Study, list[Cell]]:
    """The study and the cells of a workdir. Raises UserError."""
    path = pathlib.Path(workdir) / FILE
    if not path.is_file():
        raise UserError(f"--workdir: {path} does not exist; `sweep run --study=...` makes it")
    content = json.loads(path.read_text())
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in content["study"].items()}
    fields["axes"] = {name: tuple(values) for name, values in fields["axes"].items()}
    return Study(**fields), [Cell(**cell) for cell in content["cells"]]


def runs(workdir: str | pathlib.Path) -> results.Runs:
    """The results of a workdir; of a study those that there are by now."""
    return gather(workdir, read(workdir)[1]) if exists(workdir) else results.read(workdir)


def gather(workdir: str | pathlib.Path, cells: list[Cell]) -> results.Runs:
    """Writes `results.jsonl` from all cells that ended. What is held out, diverged or failed is left out with that reason."""
    kept, excluded = [], []
    for cell in cells:
        if ended := cell.result(workdir):
            row = ended["row"] if "excluded" in ended["row"] or not cell.holdout else ended["row"] | {"excluded": "held out"}
            (excluded if "excluded" in row else kept).append(row)
    found = results.Runs(tuple(kept), tuple(excluded))
    results.write(workdir, found)
    return found
