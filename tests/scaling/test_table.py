"""A table becomes results: what is missing is named, what cannot be used is listed, nothing is evaluated as code."""

import json

import pytest

from scaling.common import runs_of, write_table
from taxonomy.errors import UserError
from taxonomy.scaling import results, table

HEADER = ("Model Size", "Training FLOP", "loss", "set")
COLUMNS = "params=Model Size,flops=Training FLOP,loss=loss"
TOKENS = {"tokens": "flops/(6*params)"}


def rows(*changes):
    base = [[f"{n}e6", "6e18", 3.0 + n / 10, "a"] for n in (100, 200, 400)]
    for place, column, value in changes:
        base[place][column] = value
    return base


def test_a_table_becomes_runs(tmp_path):
    path = write_table(tmp_path / "runs.csv", HEADER, rows())
    runs = table.load(path, COLUMNS, TOKENS)
    assert runs.params.tolist() == [1e8, 2e8, 4e8]
    assert runs.tokens.tolist() == [1e10, 5e9, 2.5e9]
    assert [row["id"] for row in runs.rows] == ["row-2", "row-3", "row-4"]
    written = results.write(tmp_path / "w", runs)
    assert len(written.read_text().splitlines()) == 3
    assert results.read(tmp_path / "w") == runs


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nan", "nan is not finite"),
        ("inf", "inf is not finite"),
        ("", "'' in column 'loss' is not a number"),
        ("-1", "-1 is not positive"),
    ],
)
def test_what_cannot_be_used_is_listed(tmp_path, value, reason):
    path = write_table(tmp_path / "runs.csv", HEADER, rows((1, 2, value)))
    runs = table.load(path, COLUMNS, TOKENS)
    assert len(runs) == 2
    assert runs.reasons() == [{"id": "row-3", "reason": f"loss: {reason}"}]
    assert results.read(results.write(tmp_path / "w", runs).parent).reasons() == runs.reasons()


@pytest.mark.parametrize(
    ("columns", "tokens", "message"),
    [
        ("params=Size,flops=Training FLOP", "1e9", "no column 'Size'; did you mean"),
        ("params=Model Size,flops=Training FLOP,lost=loss", "1e9", "unknown quantity 'lost'"),
        ("params=Model Size", "flops/6", "no column is 'flops'"),
        ("flops=Training FLOP", "flops/6", "nothing says what 'params' is"),
        (COLUMNS, "__import__('os').getcwd()", "not part of the notation"),
        (COLUMNS, "flops/(6*", "cannot be read"),
        (COLUMNS, "flops/0", "none of 3 rows can be used"),
    ],
)
def test_mistakes_are_named(tmp_path, columns, tokens, message):
    path = write_table(tmp_path / "runs.csv", HEADER, rows())
    with pytest.raises(UserError) as raised:
        table.load(path, columns, {"tokens": tokens})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_rows_are_chosen_by_a_column(tmp_path):
    path = write_table(tmp_path / "runs.csv", HEADER, rows((1, 3, "b"), (2, 3, "c")))
    runs = table.load(path, COLUMNS, TOKENS, ["set=a|b"])
    assert len(runs) == 2 and runs.reasons() == [{"id": "row-4", "reason": "set is 'c', which --where does not take"}]
    with pytest.raises(UserError, match="--where"):
        table.load(path, COLUMNS, TOKENS, ["kind=a"])


def test_rows_of_one_run_are_its_curve(tmp_path):
    lines = [("x", 1e8, 2e9, 3.0), ("x", 1e8, 1e9, 3.5), ("y", 1e8, 1e9, 3.4)]
    path = write_table(tmp_path / "runs.csv", ("id", "params", "tokens", "loss"), lines)
    first, second = table.load(path).rows
    assert (first["tokens"], first["loss"]) == (2e9, 3.0)
    assert [point[0] for point in first["curve"]] == [1e9, 2e9] and first["curve"][0][2] == 3.5
    assert second["flops"] == 6e17 and "curve" not in second


def test_what_is_dropped_has_its_reason():
    runs = runs_of({"params": 1e8, "tokens": n * 1e8, "flops": 1e18, "loss": 4 - n / 10} for n in range(1, 7))
    left = results.exclude(runs, highest_loss=1, tokens_per_param=2.5, ids=["run-5"])
    assert [row["id"] for row in left.rows] == ["run-3", "run-4"]
    reasons = {one["id"]: one["reason"] for one in left.reasons()}
    assert reasons["run-5"] == "named by --drop"
    assert reasons["run-0"] == "1 tokens per parameter, fewer than 2.5"
    assert reasons["run-2"] == "among the 1 highest losses (3.7)"
    with pytest.raises(UserError, match="would leave none"):
        results.exclude(runs, highest_loss=6)
    some = results.exclude(runs, where=["id=run-1|run-2"])
    assert [row["id"] for row in some.rows] == ["run-1", "run-2"] and "--where does not take" in some.reasons()[0]["reason"]
    with pytest.raises(UserError, match="--where: expected key=value, got 'idd=1'; did you mean 'id'"):
        results.exclude(runs, where=["idd=1"])
    with pytest.raises(UserError, match="no run has the id 'run-9'"):
        results.exclude(runs, ids=["run-9"])


@pytest.mark.parametrize("line", ["{", '{"id": 3}', '{"id": "a", "loss": null}', '{"id": "a", "loss": NaN}'])
def test_a_broken_line_is_named(tmp_path, line):
    (tmp_path / results.FILE).write_text(json.dumps({"id": "b", "loss": 1.0}) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"results\.jsonl:2: "):
        results.read(tmp_path)
