"""Who works on what: any number of processes and hosts share the cells of a study through files of their workdir.

A claim is a file `claim.N` beside a cell, made by a link, which one of several callers gets; it names the worker. A worker is a
file too, which its process holds locked and touches while it lives. What a dead worker had is taken by claiming N + 1: nobody
ever removes another's claim, so no two take the same cell over at once.

On one machine the system releases the lock of a process however it ends, so its cells are free at once. Of other machines a worker
is dead when its file is older than a lease, by the clock of the disk alone. One that only slept sees that its claim is not the last
one any more, and the last claim alone may write a result, once.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import threading
import time
import uuid
from collections.abc import Callable

from taxonomy.scaling import files

FOLDER = "workers"
LEASE = 120.0
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


class Lost(Exception):
    """A claim is not the last one any more: the lease ran out, and another worker has the cell."""


class Worker:
    """A process, or a thread, that takes cells. Closing it gives up what it has."""

    def __init__(self, workdir: str | pathlib.Path, lease: float = LEASE, boot: str | None = None):
        """`boot`: what identifies this machine since it started, which workers on it have in common."""
        self.folder, self.lease = pathlib.Path(workdir) / FOLDER, lease
        self.boot = boot or this_boot()
        self.id = f"{platform.node() or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.path = self.folder / self.id
        self.folder.mkdir(parents=True, exist_ok=True)
        # Whole and locked before a claim can name it.
        self._file = self.path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(json.dumps({"boot": self.boot, "host": platform.node(), "process": os.getpid()}))
        self._file.flush()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(self.lease / 4):
            with contextlib.suppress(OSError):  # a disk that is away for a moment
                os.utime(self.path)

    def alive(self, other: str) -> bool:
        """Whether another worker still works, as far as can be told."""

        def now() -> float:
            os.utime(self.path)
            return self.path.stat().st_mtime

        return alive(self.folder / other, self.boot, self.lease, now)

    def take(self, place: pathlib.Path, result: str) -> "Claim | None":
        """A claim to a cell's folder; None where it has its result or a living worker."""
        last, owner = holder(place)
        if (place / result).exists() or (owner and self.alive(owner)):
            return None
        if not files.exclusive(place / f"claim.{last + 1}", self.id):
            return None
        claim = Claim(place, last + 1, result)
        # The one before may have ended just now.
        if (place / result).exists():
            claim.release()
            return None
        return claim

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Claim:
    """A worker's right to a cell's folder, as long as it is the last one."""

    def __init__(self, place: pathlib.Path, number: int, result: str):
        self.place, self.number, self._result = place, number, result

    def check(self) -> None:
        """Raises Lost when another worker has the cell by now."""
        if holder(self.place)[0] != self.number:
            raise Lost(f"{self.place.name}: another worker took it over")

    def folder(self) -> pathlib.Path:
        """Where to work: what the one before left, under a name that it does not know, so that it cannot write there any more."""
        own = self.place / f"run.{self.number}"
        before = sorted((int(path.suffix[1:]), path) for path in self.place.glob("run.*") if path.suffix[1:].isdigit())
        if before and before[-1][0] < self.number:
            before[-1][1].rename(own)
        return own

    def finish(self, text: str) -> bool:
        """Writes the result; False when another worker has the cell by now or has written it."""
        try:
            self.check()
        except Lost:
            return False
        return files.exclusive(self.place / self._result, text)

    def release(self) -> None:
        """Gives the cell up. The number stays taken, so that who has slept since before cannot have the last claim again."""
        files.replace(self.place / f"claim.{self.number}", "")


def alive(path: pathlib.Path, boot: str, lease: float, now: Callable[[], float] = time.time) -> bool:
    """Whether the worker of a file still works. `now`: by the clock of the disk, where that is asked for."""
    try:
        with path.open() as file:
            if _content(file.read()).get("boot") == boot:
                try:
                    # Shared, so that several who ask at once do not take each other for the worker.
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return True
                return False
            touched = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return False
    return now() - touched <= lease


def this_boot() -> str:
    """What identifies this machine since it started."""
    return _BOOT.read_text().strip() if _BOOT.is_file() else platform.node()


def holder(place: pathlib.Path) -> tuple[int, str]:
    """The number of the last claim to a cell's folder and its worker; 0 without a claim, no name where it was given up."""
    last = max((int(path.suffix[1:]) for path in place.glob("claim.*") if path.suffix[1:].isdigit()), default=0)
    return last, (place / f"claim.{last}").read_text() if last else ""


def _content(text: str) -> dict[str, str]:
    try:
        return json.loads(text)
    except ValueError:  # a file of another machine that is not written yet
        return {}
