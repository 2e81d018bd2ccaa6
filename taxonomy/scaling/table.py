"""Other people's runs: a CSV file becomes results.

`columns` says which column is which quantity, "params=Model Size,loss=loss"; columns that already have a quantity's name need no
mention. Quantities that the file lacks are arithmetic over those it has, "flops/(6*params)", read by the notation: nothing is
evaluated as code. Rows of one run (a column of `id` that repeats) are the points of its training curve; the last is its result.
"""

import csv
import math
import pathlib
from collections.abc import Mapping, Sequence

from taxonomy import notation
from taxonomy.errors import UserError, nearest
from taxonomy.scaling.results import COUNTED, OPTIONAL, QUANTITIES, Row, Runs, unfit


def load(path: str, columns: str = "", expressions: Mapping[str, str] | None = None, where: Sequence[str] = ()) -> Runs:
    """The runs of a CSV file. Rows whose numbers are missing or not finite are left out, with the reason.

    expressions: quantity to arithmetic, such as {"tokens": "flops/(6*params)"}.
    where: "column=value" or "column=this|that", rows of which are taken.
    Raises UserError for columns that are not there and for quantities that nothing gives.
    """
    header, records = _read(path)
    named = _columns(columns, header)
    computed = {name: notation.parse(text, f"--{name}") for name, text in (expressions or {}).items()}
    for name, node in computed.items():
        unknown = notation.names(node) - set(named)
        if unknown:
            raise UserError(f"--{name}: no column is '{min(unknown)}'{nearest(min(unknown), named)}")
    lacking = [name for name in QUANTITIES if name not in named and name not in computed]
    if lacking == ["flops"]:
        computed["flops"], lacking = notation.parse("6*params*tokens"), []
    if lacking:
        known = ", ".join(header)
        raise UserError(f"--columns: nothing says what '{lacking[0]}' is; name its column, {lacking[0]}=... (columns: {known})")
    wanted = _wanted(where, header)
    kept, excluded, places = [], [], {}
    for number, record in enumerate(records, 2):
        row: Row = {
            "id": (record[named["id"]] or "").strip() if "id" in named else f"row-{number}",
            "source": f"{pathlib.Path(path).name}:{number}",
        }
        row["id"] = row["id"] or f"row-{number}"
        reason = next(
            (
                f"{column} is {record[column]!r}, which --where does not take"
                for column, value in wanted
                if record[column] not in value.split("|")
            ),
            "",
        )
        reason = reason or _fill(row, record, named, computed, expressions or {})
        if reason:
            # An id stands once; a run left out in part keeps what is left.
            row["id"] = f"{row['id']} (row {number})" if "id" in named else row["id"]
            excluded.append(row | {"excluded": reason})
        elif row["id"] in places:
            _extend(kept, places[row["id"]], row)
        else:
            places[row["id"]] = len(kept)
            kept.append(row)
    if not kept:
        first = f"; the first: {excluded[0]['id']}: {excluded[0]['excluded']}" if excluded else ""
        raise UserError(f"{path}: none of {len(records)} rows can be used{first}")
    return Runs(tuple(kept), tuple(excluded))


def _read(path: str) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            header, records = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"import: {path} cannot be read ({e})") from None
    if not header or not records:
        raise UserError(f"import: {path} has no header or no rows")
    return header, records


def _columns(text: str, header: Sequence[str]) -> dict[str, str]:
    """Quantity to column."""
    allowed = ("id", *QUANTITIES, *OPTIONAL)
    named = {name: name for name in header if name in allowed or name.startswith(COUNTED)}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = (side.strip() for side in part.partition("="))
        if not equals:
            raise UserError(f"--columns: expected quantity=column, got {part!r}")
        if name not in allowed and not name.startswith(COUNTED):
            raise UserError(f"--columns: unknown quantity '{name}'{nearest(name, (*allowed, *(f'{one}RULE' for one in COUNTED)))}")
        if column not in header:
            raise UserError(f"--columns: the file has no column '{column}'{nearest(column, header)}")
        named[name] = column
    return named


def _wanted(where: Sequence[str], header: Sequence[str]) -> list[tuple[str, str]]:
    wanted = []
    for part in where:
        column, equals, value = part.partition("=")
        if not equals or column not in header:
            raise UserError(f"--where: expected column=value, got {part!r}{nearest(column, header)}")
        wanted.append((column, value))
    return wanted


def _fill(row: Row, record: Mapping[str, str], named: Mapping[str, str], computed: Mapping, texts: Mapping[str, str]) -> str:
    """Puts a record's numbers into the row; returns why it cannot be used, or nothing."""
    for name, column in named.items():
        if name == "id" or name in computed:
            continue
        try:
            value = float(record[column])
        except (TypeError, ValueError):
            return f"{name}: {record[column]!r} in column '{column}' is not a number"
        if wrong := unfit(name, value):
            return f"{name}: {wrong}"
        row[name] = value
    for name, node in computed.items():
        try:
            # A quantity may be defined by a column of its own name, such as a batch in other units.
            own = {other: float(record[column]) for other, column in named.items() if other in computed and _number(record[column])}
            value = notation.evaluate(
                node, own | {k: v for k, v in row.items() if type(v) is float}, texts.get(name, ""), f"--{name}"
            )
        except UserError as e:
            return str(e)
        if wrong := unfit(name, value):
            return f"{name}: {wrong}"
        row[name] = float(value)
    return ""


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False


def _extend(kept: list[Row], place: int, row: Row) -> None:
    """One more point of a run's curve; the run's result is its last point in tokens."""
    old = kept[place]
    curve = old.get("curve") or [[old["tokens"], old["flops"], old["loss"]]]
    curve = sorted([*curve, [row["tokens"], row["flops"], row["loss"]]])
    last = row if row["tokens"] >= old["tokens"] else {k: v for k, v in old.items() if k != "curve"}
    kept[place] = last | {"curve": curve}
