"""What a run writes down, and that a resumed one goes on where its checkpoint was."""

import io
import json
import math
import pathlib
import sys

import pytest

from taxonomy.training import metrics
from taxonomy.training.metrics import Log, Progress, clock, read, short


def written(workdir: pathlib.Path, steps, start: int = 0) -> None:
    log = Log(workdir, start)
    for step in steps:
        log.write(step, {"loss": 1 / step, "mfu": None})
    log.close()


def steps(workdir: pathlib.Path) -> list[int]:
    return [line["step"] for line in read(workdir)]


def test_a_line_is_on_disk_when_it_is_written(tmp_path):
    log = Log(tmp_path, 0)
    log.write(1, {"loss": 0.1 + 0.2, "tokens_per_second": None, "bad": math.nan})
    (line,) = read(tmp_path)
    assert (
        next(iter(line)) == "step" and line["loss"] == 0.1 + 0.2 and line["tokens_per_second"] is None and math.isnan(line["bad"])
    )
    log.close()


def test_resuming_drops_what_will_be_written_again(tmp_path):
    written(tmp_path, range(1, 8))
    written(tmp_path, (6, 7, 8), start=5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]
    written(tmp_path, (), start=8)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]
    written(tmp_path, (1,), start=0)
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("cut", [1, 2, 10, 25])
def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path, cut):
    written(tmp_path, range(1, 5))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-cut])
    left = [1, 2, 3, 4] if cut == 1 else [1, 2, 3]  # without its newline a line is whole
    assert steps(tmp_path) == left
    written(tmp_path, range(left[-1] + 1, 5), start=left[-1])
    assert path.read_text() == whole


def test_what_was_written_before_is_never_away(tmp_path, monkeypatch):
    """A kill while an old log is cut back finds the old lines or the new ones, not an empty file."""
    written(tmp_path, range(1, 5))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        Log(tmp_path, 2)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_events_are_there_for_tensorboard(tmp_path):
    written(tmp_path, (1, 2))
    (first,) = tmp_path.glob("events.out.tfevents.*")
    first.rename(tmp_path / "events.out.tfevents.1.earlier")  # file names count seconds
    written(tmp_path, (2, 3), start=1)
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (7, "7"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (-1_500_000, "-1.5M"),
        (6_053_381_344, "6.05B"),
        (3.2e12, "3.2T"),
        (999.4, "999"),
        (999.6, "1k"),
        (999_999, "1M"),
    ],
)
def test_short(number, text):
    assert short(number) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_one_line(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    now = iter((10.0, 10.1, 10.3, 10.35))
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
    progress = Progress()
    progress.line("one")
    progress.line("too soon")
    progress.line("two")
    progress.line("kept", always=True)
    progress.say("said")
    assert screen.getvalue() == "\r\x1b[2Kone\r\x1b[2Ktwo\r\x1b[2Kkept\nsaid\n"


def test_progress_in_a_file_is_a_line_now_and_then(monkeypatch, capsys):
    now = iter((10.0, 12.0, 14.9, 15.0, 15.1))
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
    progress = Progress(every_seconds=5.0)
    for text in ("one", "two", "three", "four"):
        progress.line(text)
    progress.line("kept", always=True)
    assert capsys.readouterr().out == "one\nfour\nkept\n"


def test_peak_of_a_cpu_is_measured():
    peak = metrics.measured_matmul_flops(size=64, seconds=0.01)
    assert 1e6 < peak < 1e13 and json.loads(json.dumps(peak)) == peak
