"""Several processes as one run: how they find each other, what only the first does, and how they end together.

A cluster is found by itself on Cloud TPU pods, under Slurm and Open MPI, and in GKE's jobs with TPUs; elsewhere every process is
told the coordinator's address, how many processes there are and which of them it is, by flags or in its environment.
"""

import glob
import hashlib
import importlib.util
import itertools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from absl import flags

from taxonomy.errors import HUNG, UserError

if TYPE_CHECKING:
    import numpy as np

# A flag, and what stands for it in the environment.
ADDRESS = ("coordinator", "JAX_COORDINATOR_ADDRESS")
COUNT = ("processes", "JAX_NUM_PROCESSES")
INDEX = ("process", "JAX_PROCESS_ID")
SECONDS_TO_LEAVE = 30  # that a process which failed waits for others to fail as well
SECONDS_FOR_THE_LAST = 3600  # that processes wait for one that prepares data, compiles or makes the report
INTERRUPTED = 130
# Errors of JAX's that a process makes by itself; it sees others go by any other.
ITS_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")

_place: tuple[int, int] | None = None  # which process this is and how many there are, once they have met
_waits = itertools.count()
_stranded = False  # whether it waited for others in vain


def define_flags() -> None:
    """Declares the flags of commands that may run as several processes."""
    if "coordinator" in flags.FLAGS:  # two of these commands in one process, as in tests
        return
    flags.DEFINE_enum(
        "distributed", "auto", ["auto", "off"], "Join the other processes of a cluster where there is one, or run alone."
    )
    flags.DEFINE_string("coordinator", None, "Where several processes meet: HOST:PORT of the first; or JAX_COORDINATOR_ADDRESS.")
    flags.DEFINE_integer("processes", None, "How many processes there are; or JAX_NUM_PROCESSES.")
    flags.DEFINE_integer("process", None, "Which of them this is, from 0; or JAX_PROCESS_ID.")
    flags.DEFINE_integer("join_seconds", 300, "How long to wait for the other processes.", lower_bound=1)
    flags.DEFINE_integer("heartbeat_seconds", 100, "A process silent for so long is lost, and the others end.", lower_bound=1)


def join(saves: bool = True) -> None:
    """Joins the other processes, where there are any; before JAX looks for devices. Raises UserError.

    A command that `saves` when it is to stop leaves SIGTERM to JAX, which tells all processes; any other just ends.
    """
    global _place, _stranded
    given = flags.FLAGS
    if given.distributed == "off":
        return
    where = told()
    if where is None and not _in_a_cluster():
        return
    import jax

    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
    who = {"coordinator_address": _given(*ADDRESS)}
    if where is not None:
        who |= {"num_processes": where[1], "process_id": where[2], "cluster_detection_method": "deactivate"}
    met = _expected(f"the {where[1]} processes" if where else "the cluster's processes", who["coordinator_address"])
    try:
        jax.distributed.initialize(
            **who,
            initialization_timeout=given.join_seconds + SECONDS_TO_LEAVE,
            heartbeat_timeout_seconds=given.heartbeat_seconds,
            shutdown_timeout_seconds=SECONDS_FOR_THE_LAST,
        )
    except Exception as e:  # of many kinds: names not resolved, ports taken, a cluster's own service
        if where is None and "coordinator_address should be defined" in str(e):
            return  # JAX found no cluster after all
        _stranded = True
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
        hint = "" if where else "; --distributed=off runs this one alone"
        raise UserError(f"--coordinator: the processes cannot meet ({reason}){hint}") from None
    finally:
        met.set()
    _place = jax.process_index(), jax.process_count()
    if not saves:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _expected(who: str, address: str | None) -> threading.Event:
    """Ends this process with an error unless the event that is given back is set in time. JAX itself would abort."""
    met, seconds = threading.Event(), flags.FLAGS.join_seconds

    def wait():
        if not met.wait(seconds):
            place = f" at {address}" if address else ""
            hint = "all have to be started, and to reach that place; --join_seconds is how long they wait"
            print(f"error: --coordinator: {who} did not all meet{place} within {seconds} s: {hint}", file=sys.stderr, flush=True)
            os._exit(HUNG)

    threading.Thread(target=wait, daemon=True).start()
    return met


def told() -> tuple[str, int, int] | None:
    """The coordinator's address, how many processes there are and which this is, as they were given; None where they were not.

    Raises UserError when only some were given, or they make no sense.
    """
    found = {flag: _given(flag, variable) for flag, variable in (ADDRESS, COUNT, INDEX)}
    absent = [f"--{flag} (or {variable})" for flag, variable in (ADDRESS, COUNT, INDEX) if found[flag] is None]
    if len(absent) == 3 or (len(absent) == 2 and found["coordinator"] is not None and _in_a_cluster()):
        return None
    if absent:
        present = next(flag for flag, value in found.items() if value is not None)
        raise UserError(f"--{present}: given without {' and '.join(absent)}; they come together")
    address, count, index = found.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator: expected HOST:PORT, such as 10.0.0.2:8476, got {address!r}")
    if count < 1:
        raise UserError(f"--processes: must be at least 1, got {count}")
    if not 0 <= index < count:
        raise UserError(f"--process: allowed are 0 to {count - 1} with --processes={count}, got {index}")
    return address, count, index


def _given(flag: str, variable: str) -> str | int | None:
    value = flags.FLAGS[flag].value
    if value is not None or flag == "coordinator":
        return value if value is not None else os.environ.get(variable)
    text = os.environ.get(variable)
    if text is not None and not text.isdigit():
        raise UserError(f"{variable}: expected a whole number, got {text!r}")
    return None if text is None else int(text)


def _in_a_cluster() -> bool:
    """Whether there are signs of several processes; JAX then finds out who they are.

    Its own search is not begun without them, because it asks services that are only there in a cluster.
    """
    env = os.environ
    if "SLURM_STEP_NODELIST" in env and env.get("SLURM_NTASKS", "1") != "1":
        return True
    if "OMPI_MCA_orte_hnp_uri" in env and env.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return True
    if "," in env.get("TPU_WORKER_HOSTNAMES", "") or "," in env.get("TPU_PROCESS_ADDRESSES", ""):
        return True
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env and importlib.util.find_spec("kubernetes"):
        return True
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return env.get("MEGASCALE_NUM_SLICES", "1") != "1" or bool(chips and importlib.util.find_spec("libtpu"))


def several() -> bool:
    """Whether this process is one of several."""
    return _place is not None and _place[1] > 1


def first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return not several() or _place[0] == 0


def label() -> str:
    """What an error says of the process it was made in; nothing of the only one."""
    return "process {} of {}: ".format(*_place) if several() else ""


def wait() -> None:
    """Waits until all processes are here, however long that takes, unless one of them is lost.

    Before they compute together for the first time: processes on CPUs give up on each other when one is half a minute late, as
    they are when one compiles and another finds the program in its cache.
    """
    if several():
        from orbax.checkpoint import multihost

        everyone = set(range(_place[1]))
        multihost.sync_global_processes(f"wait {next(_waits)}", processes=everyone, timeout=SECONDS_FOR_THE_LAST)


def gathered(own: "np.ndarray") -> "np.ndarray":
    """The arrays of all processes, of one type and shape, [processes, ...]."""
    if not several():
        return own[None]
    from jax.experimental import multihost_utils

    wait()
    return multihost_utils.process_allgather(own).reshape(-1, *own.shape)


def agree(values: Mapping[str, str]) -> None:
    """Raises UserError on all processes, with the name of a value that is not the same on all."""
    import numpy as np

    digests = [hashlib.sha256(value.encode()).digest() for value in values.values()]
    found_PVW = gathered(np.frombuffer(b"".join(digests), np.uint32).reshape(len(values), -1))
    for number, name in enumerate(values):
        others = [str(process) for process, one in enumerate(found_PVW[:, number]) if (one != found_PVW[0, number]).any()]
        if others:
            raise UserError(f"{name} of process {', '.join(others[:8])} is not that of process 0")


def said_by_any(text: str, room: int = 256) -> str:
    """The text of the first process that has any to say, the same for all; cut off where there is no room for it."""
    import numpy as np

    letters = np.zeros(room, np.uint8)
    content = text.encode()[:room]
    letters[: len(content)] = np.frombuffer(content, np.uint8)
    said = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gathered(letters)]
    return next(filter(None, said), "")


def leave(code: int) -> None:
    """Ends this process with an exit code, together with the others if they end too; does nothing where there are no others."""
    if not several() and not _stranded:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if _stranded:  # there is nobody to say goodbye to, and JAX would wait for them
        os._exit(code)
    # Others may be waiting for this one in the middle of a step: then they see it go, and end themselves.
    goodbye = threading.Thread(target=_shut_down, daemon=True)
    goodbye.start()
    goodbye.join(SECONDS_TO_LEAVE)
    os._exit(code)


def _shut_down() -> None:
    import jax

    try:
        jax.distributed.shutdown()
    except Exception:  # they did not come
        return


def fail(error: BaseException) -> NoReturn:
    """Ends one of several processes after an error that is not the user's, or after another process was lost."""
    import jax

    if isinstance(error, KeyboardInterrupt):
        code = INTERRUPTED
    elif isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(ITS_OWN):
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        print(f"error: {label()}another process was lost ({reason}); the same command goes on", file=sys.stderr, flush=True)
        os._exit(HUNG)
    else:
        traceback.print_exception(error)
        code = 1
    leave(code)
    raise AssertionError("unreachable") from error
