"""Runs programs that nobody has read, each in a process of its own that can do little, and says what came of them.

Programs run on Linux alone: elsewhere there is no limit of memory, and no way to end a program with its caller. There, always: no
environment, file descriptor or argument of the caller is inherited; wall time, processor time, memory, open files, file sizes and
results are bounded; no process or thread can be started, which is tried before the program starts; sockets, processes, signals,
foreign code and files outside a temporary folder (the Python library may be read) are refused as Python audits them
(`sys.addaudithook`), after which the program counts as refused whatever it does. When the caller dies, so does the program.

What is added where an ordinary user, or root, may make namespaces: there is no network but an empty one, no other process to be
seen, and no file but the Python and system libraries, read-only, and a folder in memory that vanishes with the program. Root gives
up being root: the program runs as a user who owns nothing.

What does not hold: without namespaces (`protection()` says which walls stand) a program made to break out of audit hooks, rather
than one that happens to do harm, can reach the network and what files its user can. Bugs of the kernel are everybody's.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from taxonomy.errors import UserError

CHILD = pathlib.Path(__file__).with_name("sandbox_child.py")
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
START = 20.0  # seconds for an interpreter to start and end, on a busy machine

Item, Result = TypeVar("Item"), TypeVar("Result")
Kind = Literal["value", "error", "timeout", "memory", "refused"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What all calls of a program may take together. Raises ValueError for a limit below 1, or of another type.

    seconds: of wall time. cpu_seconds: of processor time, whole ones. memory: bytes of address space. files: bytes of each file
    and, where there are namespaces, of all files. output: characters of each value.
    """

    seconds: float = 10.0
    cpu_seconds: int = 2
    memory: int = 512 * 2**20
    files: int = 4 * 2**20
    output: int = 2**16

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, real = getattr(self, field.name), field.name == "seconds"
            if type(value) is not int and not (real and type(value) is float and math.isfinite(value)):
                raise ValueError(f"{field.name}={value!r} is no {'finite' if real else 'whole'} number")
            if value < (0.1 if real else 1):
                raise ValueError(f"{field.name}={value} is too small for any program")


@dataclasses.dataclass(frozen=True)
class Program:
    """The text of a program. It is a function named `entry`, or, where that is None, a script from standard input to output.

    home: a module of the standard library whose names the function may use as if it stood there. It takes the place of the module's
    own function of that name, so that it cannot lean on it.
    """

    source: str
    entry: str | None = None
    home: str | None = None


class Outcome(NamedTuple):
    """What came of a call: the text of its value, or in a few words why there is none."""

    kind: Kind
    text: str


class Verdict(NamedTuple):
    """Whether a program's values were the wanted ones, and in a few words why not."""

    kind: Literal["passed", "wrong", "error", "timeout", "memory", "refused"]
    reason: str


def run(
    program: Program,
    calls: Sequence[str],
    limits: Limits = Limits(),
    *,
    seed: int = 0,
    hooks: bool = True,
    isolate: bool = True,
) -> list[Outcome]:
    """One outcome for each call, in order; a program that is ended has the same outcome for all calls from there on.

    A call is a tuple of literals, such as "(1, 'a')", for a function, and the text of standard input for a script. Calls share a
    process. A value is written by `repr`, sets and dictionaries in a fixed order; arguments that the call changed follow it.
    `seed` is that of the hashes of strings. Without `hooks` or `isolate` one of the two walls is left out, so that tests can lean
    on the other. Raises UserError where no program can be run safely, such as without both.
    """
    return _run(program, calls, limits, seed, hooks, isolate)[0]


def run_all(jobs: Iterable[tuple[Program, Sequence[str]]], limits: Limits = Limits(), workers: int | None = None):
    """The outcomes of `run(program, calls)` for each job, in order; `workers` at a time, by default one a processor."""
    return list(parallel(lambda job: run(*job, limits), jobs, workers))


def parallel(function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None) -> Iterator[Result]:
    """The function of each item, in order, computed by threads little ahead of what is taken; `workers` of them."""
    workers = workers or os.cpu_count() or 1
    waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def judge(outcomes: Sequence[Outcome], wanted: Sequence[str]) -> Verdict:
    """Passed when every outcome is the wanted value; otherwise what the first other one is, a refusal before all."""
    for outcome in outcomes:
        if outcome.kind == "refused":
            return Verdict("refused", outcome.text)
    for number, (outcome, value) in enumerate(zip(outcomes, wanted, strict=True)):
        if outcome.kind != "value":
            return Verdict(outcome.kind, outcome.text)
        if outcome.text != value:
            return Verdict("wrong", f"call {number}: {outcome.text[:80]} instead of {value[:80]}")
    return Verdict("passed", "")


@functools.cache
def protection() -> tuple[str, ...]:
    """Which walls the kernel puts up here, beside limits and audit hooks: "network", "processes" and "files", or fewer."""
    return tuple(_run(Program("def f(): pass", "f"), ["()"], Limits(), 0, True, True)[1])


def described() -> str:
    """What holds programs here, in words."""
    walls = protection()
    return "sandbox: limits, audit hooks" + (f", the kernel's walls around {', '.join(walls)}" if walls else " alone")


def _run(program, calls, limits, seed, hooks, isolate) -> tuple[list[Outcome], list[str]]:
    if sys.platform != "linux":
        raise UserError(f"sandbox: cannot run programs safely: the system is {sys.platform}, not linux")
    job = {
        **dataclasses.asdict(program),
        "calls": list(calls),
        "limits": dataclasses.asdict(limits),
        "visible": _visible(),
        "hooks": hooks,
        "isolate": isolate,
        "caller": os.getpid(),
    }
    command = [sys.executable, "-P", "-s", "-S", "-B", str(CHILD)]
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as results:
        pipes = {"stdin": subprocess.PIPE, "stdout": results, "stderr": subprocess.PIPE}
        guard = subprocess.Popen(command, **pipes, cwd=folder, env=_environment(seed), start_new_session=True)
        try:
            _, last = guard.communicate(json.dumps(job).encode(), timeout=limits.seconds + START)
        except subprocess.TimeoutExpired:
            last = b""
        finally:
            if guard.poll() is None:
                os.killpg(guard.pid, signal.SIGKILL)
                guard.communicate()
        results.seek(0)
        written = results.read(limits.files)
    return _outcomes(written, last, len(calls))


def _outcomes(written: bytes, last: bytes, count: int) -> tuple[list[Outcome], list[str]]:
    """What the program's process wrote, which may be anything, and the guard's last word, which is none when it hung."""
    try:
        end = json.loads(last)
    except ValueError:
        if last:
            reason = last.decode(errors="replace").strip().rpartition("\n")[2][-300:]
            raise UserError(f"sandbox: cannot run programs safely: {reason}") from None
        end = {"killed": 0, "out_of_time": True, "walls": []}
    found: dict[int, Outcome] = {}
    for line in written.split(b"\n")[:-1]:
        try:
            index, kind, text = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            break
        if type(index) is not int or type(kind) is not str or type(text) is not str:
            break
        found.setdefault(index, Outcome(kind, text))
    if -1 in found:
        rest = found[-1]
    elif end["out_of_time"]:
        rest = Outcome("timeout", "out of time")
    elif end["killed"] == signal.SIGKILL:
        rest = Outcome("memory", "killed by the kernel")
    elif end["killed"]:
        rest = Outcome("error", f"killed by signal {end['killed']}")
    else:
        rest = Outcome("error", "ended before its answer")
    outcomes = [found.get(index, rest) for index in range(count)]
    kinds = Kind.__args__
    return [one if one.kind in kinds else Outcome("error", "an answer that cannot be read") for one in outcomes], end["walls"]


@functools.cache
def _visible() -> list[str]:
    """Folders that a program may read: where Python's library is, and the libraries of the system that it is linked with."""
    paths = sysconfig.get_paths()
    own = [os.path.realpath(path) for path in (os.path.join(sys.base_prefix, "lib"), paths["stdlib"], paths["platstdlib"])]
    return [path for path in dict.fromkeys((*own, *SYSTEM_LIBRARIES)) if os.path.isdir(path)]


def _environment(seed: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return kept | {"PYTHONHASHSEED": str(seed % 2**32), "PYTHONUTF8": "1", "TZ": "UTC", "HOME": "/nonexistent"}
