"""The inside of the sandbox: a script that `sandbox.run` starts, never imported. It needs the standard library alone.

The first process, the guard, takes a job from its standard input, puts up the kernel's walls, forks, and ends the fork in time.
The fork limits itself, gives up its rights, refuses what Python audits and runs the program. Lines of JSON go to standard output:
(index of the call, kind, text). The guard's last word is on standard error: how the fork ended, and which walls stood.
"""

import ast
import contextlib
import ctypes
import errno
import importlib
import importlib.util
import io
import json
import os
import resource
import runpy
import signal
import sys

PLACE = "/program"  # the new root's folder for the program's files
NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, MOVE, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 8192, 16384, 1 << 18
SET_PARENT_DEATH_SIGNAL, SET_NO_NEW_PRIVILEGES = 1, 38

# What a function that only computes may do. Everything else that Python audits is refused, so new events are, too.
ALLOWED = frozenset(
    [
        "array.__new__",
        "builtins.id",
        "builtins.input",
        "builtins.input/result",
        "compile",
        "exec",
        "function.__new__",
        "glob.glob",
        "glob.glob/2",
        "marshal.dumps",
        "marshal.load",
        "marshal.loads",
        "object.__delattr__",
        "object.__getattr__",
        "object.__setattr__",
        "os.putenv",
        "os.unsetenv",
        "pickle.find_class",
        "sys._getframe",
        "sys._getframemodulename",
        "sys.excepthook",
        "sys.unraisablehook",
        "time.sleep",
    ]
)
READING = frozenset(["os.fwalk", "os.listdir", "os.scandir", "os.walk"])
WRITING = {"os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "tempfile.mkdtemp": 1, "tempfile.mkstemp": 1}  # paths
FOREIGN_CODE = frozenset({"ctypes", "_ctypes"})


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    limits, results = job["limits"], os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    walls: list[str] = []
    if job["isolate"]:
        with contextlib.suppress(OSError, AttributeError):  # a system that does not allow it; `walls` says how far it came
            isolate(libc, os.getcwd(), job["visible"], limits["files"], walls)
    os.chdir(PLACE if "files" in walls else ".")
    user = unused_user() if os.geteuid() == 0 else None
    if user is not None:
        os.chown(".", user, user)
    die_with_parent(libc)
    inner = os.fork()
    if inner == 0:
        try:
            os.setsid()  # so that signals to its group reach nobody else
            give_up_rights(libc, user)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
            os.closerange(results + 1, 256)
            del libc
            for name in [name for name in sys.modules if name.split(".")[0] in FOREIGN_CODE]:
                del sys.modules[name]
            limit(limits)
            run(job, results)
        finally:
            os._exit(0)
    late = []

    def end(*_):
        late.append(True)
        os.kill(inner, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limits["seconds"])
    os.waitid(os.P_PID, inner, os.WEXITED | os.WNOWAIT)
    signal.setitimer(signal.ITIMER_REAL, 0)
    with contextlib.suppress(OSError):
        os.killpg(inner, signal.SIGKILL)  # whatever may be left of its group, while the number is still its
    _, status, used = os.wait4(inner, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    # Half of the limit: what the kernel limits by is counted in ticks, and may be far from what it reports.
    spent = used.ru_utime + used.ru_stime > limits["cpu_seconds"] / 2
    out_of_time = bool(late) or killed == signal.SIGXCPU or (killed == signal.SIGKILL and spent)
    last = {"killed": killed, "out_of_time": out_of_time, "walls": walls}
    os.write(2, json.dumps(last).encode())


def die_with_parent(libc: ctypes.CDLL) -> None:
    """Asks to be ended with the parent, which a change of user undoes."""
    if sys.platform == "linux":
        libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def unused_user() -> int | None:
    """For root, a user id that owns nothing; None where root is an ordinary user outside of its container.

    Root itself would not do: the kernel does not count its processes. Ends this process where it cannot be another user, or where
    that one cannot read Python's library.
    """
    user = 2**30 + os.getpid()
    try:
        os.seteuid(user)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        sys.exit("root needs the right to be another user")
    try:
        with open(ast.__file__):
            return user
    except OSError:
        sys.exit("root needs namespaces here, or a Python that other users may read")
    finally:
        os.seteuid(0)


def isolate(libc: ctypes.CDLL, place: str, visible: list[str], size: int, walls: list[str]) -> None:
    """Namespaces of its own, and a root with the Python library and the system's, read-only, and a small disk in memory."""
    user, group, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    names = NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PROCESSES | NEW_NETWORK
    check(libc.unshare(names if root else names | NEW_USERS))
    walls += ["network", "processes"]
    if not root:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{file}", "w") as out:
                out.write(text)
    mount(libc, None, "/", None, RECURSIVE | PRIVATE)
    mount(libc, "tmpfs", place, "tmpfs", NO_SUID | NO_DEVICES, f"size={size},nr_inodes=4096,mode=755")
    for path in visible:
        inside = place + path
        if os.path.islink(path):
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            os.symlink(os.readlink(path), inside)
        elif not os.path.isdir(inside):
            os.makedirs(inside)
            mount(libc, path, inside, None, BIND | RECURSIVE)
            kept = os.statvfs(inside).f_flag & (NO_SUID | NO_DEVICES | NO_EXEC)
            mount(libc, None, inside, None, REMOUNT | BIND | READ_ONLY | kept)
    os.mkdir(place + PLACE, 0o700)
    os.chdir(place)
    mount(libc, place, "/", None, MOVE)
    os.chroot(".")
    walls += ["files"]


def mount(libc: ctypes.CDLL, source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    coded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    check(libc.mount(*coded[:3], ctypes.c_ulong(flags), coded[3]))


def check(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def give_up_rights(libc: ctypes.CDLL, user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if sys.platform == "linux":
        # Version 3 of the header, this process; no capability of any of the three sets.
        libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        die_with_parent(libc)


def limit(limits: dict) -> None:
    wanted = {
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["files"],
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    for name, most in wanted.items():
        number = getattr(resource, name, None)
        if number is not None:
            _, hard = resource.getrlimit(number)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with contextlib.suppress(ValueError, OSError):  # not on this system
                resource.setrlimit(number, (most, most))


def watch(place: str, visible: list[str], refused: list[str]) -> None:
    """Refuses, for good, what Python audits and a function that only computes has no need of; keeps what was refused."""
    real, allowed, reading, writing, foreign = os.path.realpath, ALLOWED, READING, dict(WRITING), FOREIGN_CODE
    to_write = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    place = real(place)
    readable = (place, *map(real, visible))

    def inside(path, folders):
        path = "." if path is None or path == "" else path
        if not isinstance(path, (str, bytes)):
            return False
        path = real(path.decode(errors="surrogateescape") if isinstance(path, bytes) else path)
        return any(path == folder or path.startswith(folder + "/") for folder in folders)

    def fine(event, args):
        if event in allowed:
            return True
        if event == "import":
            return args[0] not in foreign
        if event == "open":
            return inside(args[0], (place,) if args[2] & to_write else readable)
        if event in reading:
            return inside(args[0], readable)
        return event in writing and all(inside(path, (place,)) for path in args[: writing[event]])

    def hook(event, args):
        if not fine(event, args):
            refused.append(event)
            raise PermissionError(f"the sandbox refuses {event}")

    sys.addaudithook(hook)


def run(job: dict, results: int) -> None:
    """Runs the program on every call and writes what came of each."""
    place, longest, refused = os.getcwd(), job["limits"]["output"], []
    path = os.path.join(place, "program.py")
    with open(path, "wb") as file:
        file.write(job["source"].encode("utf-8", "surrogatepass"))
    sys.argv, sys.path_importer_cache = [path], {}
    if job["hooks"]:
        watch(place, job["visible"], refused)

    def tell(index, kind, text):
        os.write(results, json.dumps([index, kind, text]).encode() + b"\n")

    def attempt(index, function, *given):
        try:
            value = function(*given)
            kind, text = "value", value if isinstance(value, str) else None
        except MemoryError:
            kind, text = "memory", "MemoryError"
        except BaseException as error:
            value, kind, text = None, "error", described(error)
        if refused:
            kind, text = "refused", refused[0]
        elif kind == "value" and index >= 0 and len(text) > longest:
            kind, text = "error", f"more than {longest} characters"
        if kind != "value" or index >= 0:
            tell(index, kind, text)
        return value if kind == "value" else None

    if job["entry"] is None:
        for index, text in enumerate(job["calls"]):
            attempt(index, printed, path, text)
        return
    function = attempt(-1, load, path, job["entry"], job["home"])
    if function is not None:
        for index, text in enumerate(job["calls"]):
            attempt(index, called, function, text)


def described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "an exception that cannot be described"


def load(path: str, entry: str, home: str | None):
    """The function of this name in the program, which sees the names of the module `home`."""
    spec = importlib.util.spec_from_file_location("program", path)
    module = importlib.util.module_from_spec(spec)
    if home is not None:
        names = vars(importlib.import_module(home))
        vars(module).update({name: value for name, value in names.items() if not name.startswith("__") and name != entry})
    sys.modules["program"] = module
    spec.loader.exec_module(module)
    function = vars(module).get(entry)
    if not callable(function):
        raise NameError(f"no function {entry}")
    return function


def called(function, text: str) -> str:
    """The value of a call, as text; of an argument that the call changed, too."""
    arguments = ast.literal_eval(text)
    before = plain(arguments)
    value, after = plain(function(*arguments)), plain(arguments)
    return value if after == before else f"{value}, arguments now {after}"


def plain(value) -> str:
    """A value of Python's own types as it would be written, sets and dictionaries in a fixed order. Raises TypeError for others."""
    kind = type(value)
    if value is None or value is Ellipsis or kind in (bool, int, float, complex, str, bytes):
        return repr(value)
    if kind is list:
        return f"[{', '.join(map(plain, value))}]"
    if kind is tuple:
        return f"({', '.join(map(plain, value))}{',' if len(value) == 1 else ''})"
    if kind in (set, frozenset):
        text = ", ".join(sorted(map(plain, value)))
        return f"{kind.__name__}({{{text}}})" if text else f"{kind.__name__}()"
    if kind is dict:
        # Equal dictionaries may differ in order.
        return "{" + ", ".join(sorted(f"{plain(key)}: {plain(one)}" for key, one in value.items())) + "}"
    if kind in (bytearray, range):
        return repr(value)
    raise TypeError(f"a value of type {kind.__name__}, which is no plain data")


def printed(path: str, text: str) -> str:
    """What a whole program prints when it reads this text, without white space at the ends of lines."""
    sys.stdin, sys.stdout = io.StringIO(text), io.StringIO()
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    return "\n".join(line.rstrip() for line in sys.stdout.getvalue().rstrip().split("\n"))


if __name__ == "__main__":
    main()
