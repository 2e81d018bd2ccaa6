"""Results of runs: one JSON line a run in `results.jsonl` of a workdir, and the arrays that laws are fitted to.

A line has `id`, `params`, `tokens`, `flops`, `loss` and what else is known: `seed`, `unique_tokens`, `learning_rate`,
`batch_tokens`, counts by another rule (`params_body`, `flops_exact`, ...), a `curve` of [tokens, flops, loss] during training. A
line with `excluded` is not fitted; the reason is what it says.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from taxonomy.errors import UserError, nearest
from taxonomy.scaling import files

FILE = "results.jsonl"
QUANTITIES = ("params", "tokens", "flops", "loss")
OPTIONAL = ("unique_tokens", "learning_rate", "batch_tokens", "seed")
# A quantity counted by another rule: params_body, flops_exact.
COUNTED = ("params_", "flops_")

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Runs:
    """Fitted runs as arrays (R,), and what is left out with its reasons."""

    rows: tuple[Row, ...]
    excluded: tuple[Row, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        """One quantity of every run. Raises UserError naming the runs that lack it."""
        lacking = [row["id"] for row in self.rows if name not in row]
        if lacking:
            known = sorted({key for row in self.rows for key, value in row.items() if isinstance(value, (int, float))})
            shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
            raise UserError(f"results: {len(lacking)} of {len(self)} runs have no '{name}' ({shown}){nearest(name, known)}")
        return np.array([row[name] for row in self.rows], np.float64)

    def has(self, name: str) -> bool:
        return bool(self.rows) and all(name in row for row in self.rows)

    params = property(lambda self: self.column("params"))
    tokens = property(lambda self: self.column("tokens"))
    flops = property(lambda self: self.column("flops"))
    loss = property(lambda self: self.column("loss"))

    def counts(self, quantity: str) -> list[str]:
        """The rules by which every run counts a quantity: "params", "params_body", ..."""
        found = {key for row in self.rows for key in row if key.startswith(f"{quantity}_")}
        return [quantity, *sorted(key for key in found if self.has(key))]

    def counted(self, params: str = "params", flops: str = "flops") -> "Runs":
        """The same runs with another count in the place of `params` and of `flops`."""
        for name in (params, flops):
            self.column(name)
        rows = tuple(row | {"params": row[params], "flops": row[flops]} for row in self.rows)
        return dataclasses.replace(self, rows=rows)

    def subset(self, keep_R: Iterable[bool]) -> "Runs":
        return dataclasses.replace(self, rows=tuple(row for row, keep in zip(self.rows, keep_R, strict=True) if keep))

    def without(self, reasons: Mapping[str, str]) -> "Runs":
        """These runs without those whose id has a reason."""
        kept = tuple(row for row in self.rows if row["id"] not in reasons)
        left = tuple(row | {"excluded": reasons[row["id"]]} for row in self.rows if row["id"] in reasons)
        return Runs(kept, (*self.excluded, *left))

    def reasons(self) -> list[dict[str, str]]:
        return [{"id": row["id"], "reason": row["excluded"]} for row in self.excluded]


def exclude(
    runs: Runs, highest_loss: int = 0, tokens_per_param: float = 0.0, ids: Iterable[str] = (), where: Iterable[str] = ()
) -> Runs:
    """Leaves out runs that `where` does not take, named runs, those of too few tokens for each parameter, the highest losses.

    where: "key=value" or "key=this|that" of what a run's line says, such as the axes of a study.
    """
    for part in where:
        key, equals, values = part.partition("=")
        known = {name for row in runs.rows for name in row}
        if not equals or key not in known:
            raise UserError(f"--where: expected key=value, got {part!r}{nearest(key, known)}")
        other = [row for row in runs.rows if str(row.get(key)) not in values.split("|")]
        runs = runs.without({row["id"]: f"{key} is {row.get(key)!r}, which --where does not take" for row in other})
    ids = list(ids)
    unknown = set(ids) - {row["id"] for row in runs.rows}
    if unknown:
        raise UserError(f"--drop: no run has the id '{min(unknown)}'{nearest(min(unknown), (row['id'] for row in runs.rows))}")
    runs = runs.without(dict.fromkeys(ids, "named by --drop"))
    few = [row for row in runs.rows if tokens_per_param and row["tokens"] / row["params"] < tokens_per_param]
    ratio = {row["id"]: f"{row['tokens'] / row['params']:.3g} tokens per parameter, fewer than {tokens_per_param:g}" for row in few}
    runs = runs.without(ratio)
    if highest_loss >= len(runs):
        raise UserError(f"--drop_highest_loss: {highest_loss} of {len(runs)} runs would leave none")
    ranked = sorted(runs.rows, key=lambda row: -row["loss"])[:highest_loss]
    return runs.without({row["id"]: f"among the {highest_loss} highest losses ({row['loss']:.4g})" for row in ranked})


def write(workdir: str | pathlib.Path, runs: Runs) -> pathlib.Path:
    """Replaces the results of a workdir."""
    lines = [json.dumps(row) + "\n" for row in (*runs.rows, *runs.excluded)]
    return files.replace(pathlib.Path(workdir) / FILE, "".join(lines))


def exists(workdir: str | pathlib.Path) -> bool:
    return (pathlib.Path(workdir) / FILE).is_file()


def read(workdir: str | pathlib.Path) -> Runs:
    """The results of a workdir. Raises UserError naming the line that is no result."""
    path = pathlib.Path(workdir) / FILE
    if not path.is_file():
        raise UserError(f"--workdir: {path} does not exist; `sweep import` makes it from a table, `sweep run` from a study")
    kept, excluded, ids = [], [], set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as e:
            raise UserError(f"{path}:{number}: not a line of JSON ({e})") from None
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or row["id"] in ids:
            raise UserError(f"{path}:{number}: expected an object with an 'id' of its own")
        ids.add(row["id"])
        if "excluded" in row:
            excluded.append(row)
            continue
        for name, value in row.items():
            number_wanted = name in (*QUANTITIES, *OPTIONAL) or name.startswith(COUNTED)
            if number_wanted and (wrong := unfit(name, value)):
                raise UserError(f"{path}:{number}: {name}: {wrong}")
        kept.append(row)
    return Runs(tuple(kept), tuple(excluded))


def unfit(name: str, value: Any) -> str:
    """Why a value cannot stand for a quantity; empty if it can."""
    if type(value) not in (int, float):
        return f"expected a number, got {value!r}"
    if not math.isfinite(value):
        return f"{value} is not finite"
    if name != "seed" and value <= 0:
        return f"{value:g} is not positive"
    return ""
