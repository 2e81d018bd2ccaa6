"""How far a study is, from the files of its workdir alone: no JAX, no part in the work."""

import dataclasses
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from taxonomy.scaling import claims
from taxonomy.scaling.cells import Cell

WAITING, RUNNING, LEFT_OUT = "waiting", "running", "left out"
_TAIL = 16384


@dataclasses.dataclass(frozen=True)
class State:
    """Of one cell. what: running, waiting, left out, or how it ended. said: the loss, or why there is none."""

    cell: Cell
    what: str
    step: int = 0
    loss: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    worker: str = ""
    said: str = ""


def states(workdir: str | pathlib.Path, planned: Sequence[Cell], lease: float = claims.LEASE) -> list[State]:
    """The state of every cell."""
    return [_state(workdir, cell, lease) for cell in planned]


def _state(workdir: str | pathlib.Path, cell: Cell, lease: float) -> State:
    if cell.left_out:
        return State(cell, LEFT_OUT, said=cell.left_out)
    if result := cell.result(workdir):
        row, step = result["row"], cell.counts["steps"] if "seconds" in result["row"] else 0
        known = {name: row.get(name) for name in ("loss", "seconds", "tokens_per_second")}
        return State(cell, result["state"], step, worker=result["worker"], said=row.get("excluded", ""), **known)
    place = cell.folder(workdir)
    number, worker = claims.holder(place)
    line = _last_line(place / f"run.{number}" / "metrics.jsonl")
    known = {"step": line.get("step", 0), "loss": line.get("loss"), "seconds": line.get("seconds")}
    if worker and claims.alive(pathlib.Path(workdir) / claims.FOLDER / worker, claims.this_boot(), lease):
        return State(cell, RUNNING, worker=worker, tokens_per_second=line.get("tokens_per_second"), **known)
    held = "after the prediction" if cell.holdout else ""
    return State(cell, WAITING, said="its worker died; the next one goes on from there" if worker else held, **known)


def summary(found: Sequence[State]) -> dict[str, Any]:
    """Cells by state, and the minutes left, as far as finished cells tell."""
    counted = dict(Counter(state.what for state in found))
    open_ = [state for state in found if state.what == RUNNING or (state.what == WAITING and not state.cell.holdout)]
    speeds = [s.tokens_per_second * s.cell.counts["flops"] / s.cell.counts["tokens"] for s in found if s.tokens_per_second]
    running = counted.get(RUNNING, 0)
    minutes = None
    if open_ and speeds and running:
        left = sum(state.cell.counts["flops"] * (1 - state.step / state.cell.counts["steps"]) for state in open_)
        minutes = left / (sum(speeds) / len(speeds)) / running / 60
    return {"cells": counted, "open": len(open_), "minutes_left": minutes}


def _last_line(path: pathlib.Path) -> dict[str, Any]:
    """The last whole line of a log; empty without one."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
