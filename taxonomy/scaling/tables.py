"""Plans, states and verdicts as text for a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from taxonomy.scaling.cells import Cell
from taxonomy.scaling.forecast import Speed
from taxonomy.scaling.shown import between, number
from taxonomy.scaling.states import State

_PLAN = ("cell", "N", "D", "D/N", "FLOPs", "steps", "batch", "lr", "epochs", "minutes")
_STATUS = ("cell", "state", "step", "loss", "minutes", "worker")


def plan(cells: Sequence[Cell], speed: Speed | None, corpus: float | None, said: dict[str, Any]) -> str:
    """Every cell, the sum, what to expect and what is likely to be wrong."""
    rows = []
    for cell in cells:
        counts = cell.counts
        values = [counts["params"], counts["tokens"], counts["tokens"] / counts["params"], counts["flops"], counts["steps"]]
        values += [counts["batch_tokens"], counts["learning_rate"], counts["tokens"] / corpus if corpus else None]
        minutes = f"{speed.minutes(cell):.3g}" if speed else "?"
        note = f"left out: {cell.left_out}" if cell.left_out else "held out" if cell.holdout else ""
        rows.append((cell.id, *(short(value) for value in values), minutes, note))
    wanted = [cell for cell in cells if not cell.left_out]
    held = sum(cell.holdout for cell in wanted)
    total = sum(cell.counts["flops"] for cell in wanted)
    lines = [columns((*_PLAN, ""), rows), f"{len(wanted) - held} cells and {held} held out, {number(total)} FLOPs"]
    if speed:
        minutes = sum(map(speed.minutes, wanted))
        lines[-1] += f", {minutes:.3g} minutes for one worker at {number(speed.flops)} FLOP/s, by {speed.source}"
    if said["intervals"]:
        lines += _expected(said["intervals"])
    return "\n".join(lines + [f"  warning: {warning}" for warning in said["warnings"]])


def _expected(found: dict[str, Any]) -> Iterable[str]:
    true = found["expected"]
    yield f"95% of the answers, if runs scatter by {100 * found['scatter']:.2g}% about an exact law ({found['draws']} simulations):"
    yield f"  N* ~ C^{true['exponent']:.3f} {between(found['exponent'])}"
    at = f"at {number(found['flops'])} FLOPs: N* {number(true['params'])} {between(found['params'])}"
    yield f"  {at}, its loss {number(true['loss'])} {between(found['loss'])}"


def status(found: Sequence[State], summary: dict[str, Any]) -> str:
    """Every cell, and how many are in which state."""
    rows = []
    for one in found:
        step = f"{one.step}/{one.cell.counts['steps']}"
        minutes = f"{one.seconds / 60:.2f}" if one.seconds is not None else ""
        loss = f"{one.loss:.4f}" if one.loss is not None else ""
        note = one.said if one.what not in ("finished",) else ""
        rows.append((one.cell.id, one.what, step, loss, minutes, one.worker, note or ("held out" if one.cell.holdout else "")))
    lines = [columns((*_STATUS, ""), rows), ", ".join(f"{count} {what}" for what, count in summary["cells"].items())]
    if summary["minutes_left"] is not None:
        lines[-1] += f"; about {summary['minutes_left']:.3g} minutes left"
    return "\n".join(lines)


def frozen(prediction: dict[str, Any], path: str) -> str:
    """A prediction, before anything of it is trained."""
    lines = [f"{path}: frozen {prediction['frozen']}, fitted to {prediction['runs']} runs, sha256 {prediction['sha256'][:16]}"]
    lines += [
        f"  {one['id']}: loss {one['predicted']:.4f}, 95% of one run {between(one.get('interval'))}" for one in prediction["cells"]
    ]
    return "\n".join(lines)


def verdict(found: dict[str, Any]) -> str:
    """What came of a prediction."""
    lines = [f"frozen {found['frozen']} on {found['runs']} runs, sha256 {found['sha256'][:16]}"]
    for one in found["cells"]:
        if "loss" not in one:
            lines.append(f"  {one['id']}: predicted {one['predicted']:.4f}; {one['reason']}")
            continue
        error = f"{one['predicted'] - one['loss']:+.4f} nats, {one['error_percent']:+.2f}%"
        place = ("inside" if one["inside"] else "outside") + f" 95% {between(one['interval'])}" if "interval" in one else ""
        lines.append(f"  {one['id']}: loss {one['loss']:.4f}, predicted {one['predicted']:.4f} ({error}), {place}".rstrip(", "))
    if found["runs_changed"]:
        lines.append("  warning: the runs are others now than the prediction was fitted to")
    return "\n".join(lines)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a header, the first column to the left and all others but the last to the right."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[place]) for row in table) for place in range(len(header))]
    last = len(header) - 1
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def short(value: float | None) -> str:
    """Three digits, with a letter for thousands and more up to 1e15; whole numbers below ten thousand as they are."""
    if value is None:
        return "?"
    if value == int(value) and value < 10_000:
        return str(int(value))
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if 0.9995 * limit <= abs(value) < 1e15:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}".replace("e+", "e").replace("e-0", "e-")
