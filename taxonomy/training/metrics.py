"""What a run writes down and what a person sees while it works."""

import functools
import json
import math
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from taxonomy import distributed
from taxonomy.scaling import accelerators


def peak_flops() -> float:
    """FLOP/s that all devices could do at best; a CPU is measured once with a float32 matrix product."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return measured_matmul_flops()
    found = accelerators.of_device(device.device_kind)
    return found.flops / found.devices * jax.device_count() if found else float("nan")


@functools.cache
def measured_matmul_flops(size: int = 1024, seconds: float = 0.3) -> float:
    """FLOP/s of a float32 matrix product on this machine, the best of several; measured once."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - before)
    return 2 * size**3 / best


class Log:
    """`metrics.jsonl` and TensorBoard events of a workdir. Opening it drops lines past `step`, which will be written again.

    Of several processes the first writes.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        self._writes = distributed.first()
        if not self._writes:
            return
        self.path = workdir / "metrics.jsonl"
        self._begin([line for line in read(workdir) if line["step"] <= step] if self.path.exists() else [])
        self._events = _event_writer(workdir, step)

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        # By a rename, so that a kill in between loses nothing.
        rewritten = self.path.with_suffix(".partial")
        rewritten.write_text("".join(json.dumps(line) + "\n" for line in lines))
        rewritten.rename(self.path)
        self._file = self.path.open("a", buffering=1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line, with `step` first."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._show(step, values)

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Adds values to the line of a step that is there."""
        if not self._writes:
            return
        self._file.close()
        self._begin([line | values if line["step"] == step else line for line in read(self.path.parent)])
        self._show(step, values)

    def _show(self, step: int, values: dict[str, Any]) -> None:
        if self._events:
            for key, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._events.add_scalar(key, value, step)

    def close(self) -> None:
        if not self._writes:
            return
        self._file.close()
        if self._events:
            self._events.close()


def _event_writer(workdir: pathlib.Path, step: int):
    # tensorboardX imports PyTorch where it is installed, which takes seconds, for functions that are not used here.
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None
    try:
        import tensorboardX
    finally:
        if absent:
            del sys.modules["torch"]

    return tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1 if step else None, write_to_disk=True)


def read(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a workdir's `metrics.jsonl`; a last line cut short by a kill is left out."""
    lines = []
    for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class Progress:
    """A line on stdout for a person: rewritten in place on a terminal, printed now and then otherwise.

    Of several processes the first speaks.
    """

    def __init__(self, every_seconds: float = 5.0):
        self._speaks = distributed.first()
        self._terminal, self._every, self._last, self._open = sys.stdout.isatty(), every_seconds, 0.0, False

    def line(self, text: str, always: bool = False) -> None:
        """Shows `text` unless something was shown just now."""
        now = time.perf_counter()
        if not always and now - self._last < (0.2 if self._terminal else self._every):
            return
        self._last = now
        if self._speaks and self._terminal and not always:
            print(f"\r\x1b[2K{text}", end="", flush=True)
            self._open = True
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Prints `text` on a line of its own."""
        if not self._speaks:
            return
        if self._open:
            print("\r\x1b[2K", end="")
            self._open = False
        print(text, flush=True)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def short(number: float) -> str:
    """A number with three digits and a letter: 1.23k, 45.6M."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * limit:  # what three digits round up to it
            return f"{number / limit:.3g}{letter}"
    return f"{number:.3g}"
