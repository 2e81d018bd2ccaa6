"""Runs the cells of a study: takes one that is free, trains it by the training loop, writes down how it ended, takes the next."""

import functools
import json
import math
import pathlib
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from taxonomy import config as config_lib
from taxonomy.errors import Diverged, Preempted, UserError
from taxonomy.scaling import cells as cells_lib
from taxonomy.scaling import claims
from taxonomy.scaling.cells import DIVERGED, FAILED, FINISHED, RESULT, Cell
from taxonomy.scaling.study import Study

# What a cell comes to: its result's loss and what else a line of results says.
Train = Callable[[Cell, claims.Claim], dict[str, Any]]

_TRAINERS = 16  # kept compiled


def work(
    workdir: str | pathlib.Path,
    wanted: Sequence[Cell],
    train: Train,
    worker: claims.Worker,
    say: Callable[[str], None] = print,
    poll: float = 1.0,
    ended: Callable[[], object] = lambda: None,
) -> None:
    """Returns when every wanted cell has ended, whoever ran it. `ended` is called after each that ended here.

    A cell that fails is written down and the next is taken. Raises Preempted when asked to stop.
    """
    left = list(wanted)
    while left:
        left = [cell for cell in left if not (cell.folder(workdir) / RESULT).exists()]
        # The first that is free; what a worker lost is as free as what nobody had.
        claim = cell = None
        for cell in left:
            if claim := worker.take(cell.folder(workdir), RESULT):
                break
        if claim is None:
            if left:
                time.sleep(poll)
            continue
        try:
            result = _outcome(cell, claim, train)
        except claims.Lost as lost:
            say(str(lost))
            continue
        except BaseException:
            claim.release()
            raise
        if claim.finish(json.dumps(result | {"worker": worker.id, "run": claim.number}, indent=1) + "\n"):
            say(f"{cell.id}: {_said(result)}")
            ended()


def _outcome(cell: Cell, claim: claims.Claim, train: Train) -> dict[str, Any]:
    row = {"id": cell.id, **cell.values, **cell.counts}
    try:
        row |= train(cell, claim)
    except (Preempted, claims.Lost):
        raise
    except Diverged as error:
        return {"state": DIVERGED, "row": row | {"excluded": f"diverged: {error}"}}
    except UserError as error:
        return {"state": FAILED, "row": row | {"excluded": f"failed: {error}"}}
    except Exception as error:
        # Anything may be wrong with one cell, and all others are still to be run.
        claim.check()
        said = (str(error).splitlines() or [""])[0][:200]
        row["excluded"] = f"failed: {type(error).__name__}: {said}"
        return {"state": FAILED, "row": row, "traceback": traceback.format_exc()}
    if not math.isfinite(row["loss"]):
        return {"state": DIVERGED, "row": row | {"loss": None, "excluded": f"diverged: the loss is {row['loss']}"}}
    return {"state": FINISHED, "row": row}


def _said(result: dict[str, Any]) -> str:
    row = result["row"]
    return f"loss {row['loss']:.4f}" if result["state"] == FINISHED else row["excluded"]


def trained(study: Study, extra: dict[str, Any] | None = None) -> Train:
    """Trains cells by the training loop, with one compiled step for all of one shape. `extra` goes into every result."""
    import jax

    from taxonomy.training import loop, metrics

    if jax.process_count() > 1:
        raise UserError(f"sweep: a worker is one process, here {jax.process_count()} are joined; start each of them alone")

    class Reported(metrics.Progress):
        """Lines of a cell begin with its name; each is a moment to see whether the cell is still this worker's."""

        def __init__(self, cell: Cell, claim: claims.Claim):
            super().__init__()
            self._cell, self._claim = cell, claim

        def line(self, text: str, always: bool = False) -> None:
            self._claim.check()
            super().line(f"{self._cell.id}  {text.splitlines()[0]}")

    compiled: dict[str, Any] = {}

    def trainer(plan: Any) -> Any:
        shape = _shape(plan.config)
        if shape not in compiled:
            while len(compiled) >= _TRAINERS:
                del compiled[next(iter(compiled))]
            compiled[shape] = loop.make_trainer(plan)
        return compiled[shape]

    def train(cell: Cell, claim: claims.Claim) -> dict[str, Any]:
        began = time.perf_counter()
        config, folder = config_lib.from_json(json.dumps(cell.config)), claim.folder()
        run = loop.train(config, folder, progress=Reported(cell, claim), trainer=trainer)
        lines = metrics.read(folder)
        found = {"loss": _metric(lines[-1], study.metric), "seconds": time.perf_counter() - began}
        speeds, each = [line["tokens_per_second"] for line in lines], cell.counts["flops"] / cell.counts["tokens"]
        if any(speeds):
            found["tokens_per_second"] = statistics.median(filter(None, speeds))
        points = [(line["tokens_seen"], line[study.metric]) for line in lines if study.metric in line]
        if len(points) > 1:
            found["curve"] = [[tokens, tokens * each, loss] for tokens, loss in points]
        corpus = sum(len(part.tokens("train")) for part in run.prepared.parts)
        return found | {"unique_tokens": min(cell.counts["tokens"], corpus), **(extra or {})}

    return train


def _metric(line: dict[str, Any], name: str) -> float:
    if name not in line:
        known = ", ".join(key for key in line if key.startswith("validation_"))
        raise UserError(f"study.metric: a run ends without '{name}' (it has: {known})")
    return float(line[name])


def _shape(config: Any) -> str:
    """All of a config that a compiled step depends on, or may."""
    sections = config.to_dict()
    train = {key: value for key, value in sections["train"].items() if key not in ("steps", "tokens", "schedule", "log_every")}
    return json.dumps([sections["model"], train, sections["mesh"], sections["data"]], sort_keys=True)


def run(workdir: str | pathlib.Path, study: Study, planned: list[Cell], lease: float, only: Callable[[Cell], bool]) -> None:
    """Runs all cells that are not held out, together with whoever else runs them."""
    wanted = [cell for cell in planned if not cell.holdout and not cell.left_out and only(cell)]
    gather = functools.partial(cells_lib.gather, workdir, planned)
    with claims.Worker(workdir, lease) as worker:
        work(workdir, wanted, trained(study), worker, ended=gather)
    gather()


def forget_failed(workdir: str | pathlib.Path, planned: list[Cell]) -> int:
    """Takes away the results of cells that failed, which are then run again; how many."""
    failed = [cell for cell in planned if (ended := cell.result(workdir)) and ended["state"] == FAILED]
    for cell in failed:
        place = cell.folder(workdir)
        # First, for its worker may live on and work on others.
        claims.Claim(place, claims.holder(place)[0], RESULT).release()
        (place / RESULT).unlink(missing_ok=True)
    return len(failed)
