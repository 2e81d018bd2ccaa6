"""The inside of the sandbox: a script that `sandbox.run` starts, never imported. It needs the standard library alone.

The first process, the guard, takes a job from its standard input, puts up the kernel's walls, forks, and ends the fork in time.
The fork gives up its rights, limits itself, makes sure that it cannot start a process, refuses what Python audits, says to the
guard that the program starts, and runs it. What fails before that is the sandbox's failure, not the program's. Lines of JSON go to
standard output: (index of the call, kind, text). The guard's last word is on standard error: how the fork ended, and which walls
stood; or, in words, why no program can be run.
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
import stat
import sys

PLACE = "/program"  # the new root's folder for the program's files
STARTED = b"started"
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
# Where the arguments of events that write have paths, and where descriptors of folders that paths may be relative to.
WRITING = {
    "os.mkdir": ((0,), (2,)),
    "os.remove": ((0,), (1,)),
    "os.rename": ((0, 1), (2, 3)),
    "os.rmdir": ((0,), (1,)),
    "shutil.rmtree": ((0,), (1,)),
    "tempfile.mkdtemp": ((0,), ()),
    "tempfile.mkstemp": ((0,), ()),
}
FOREIGN_CODE = frozenset({"ctypes", "_ctypes"})
UNAUDITED = ("mkfifo", "mknod", "pidfd_open", "setns", "setpriority", "unshare")  # of `os`: they reach outside


def main() -> None:
    os.umask(0o022)  # what root makes for the program, the program must be able to read
    job = json.loads(sys.stdin.buffer.read())
    limits, results = job["limits"], os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    users = user_map()
    walls: list[str] = []
    if job["isolate"]:
        with contextlib.suppress(OSError, AttributeError):  # a system that does not allow it; `walls` says how far it came
            isolate(libc, os.getcwd(), job["visible"], limits["files"], walls)
    if not job["hooks"] and "files" not in walls:
        sys.exit("audit hooks may be left out only where the kernel's walls stand")
    os.chdir(PLACE if "files" in walls else ".")
    user = unused_user(users, os.getpid()) if os.geteuid() == 0 else None
    if user is not None:
        os.chown(".", user, user)
    die_with_parent(libc)
    if os.getppid() != job["caller"]:
        sys.exit("the caller is gone")
    (word, saying), (life, living) = os.pipe(), os.pipe()
    inner = os.fork()
    if inner == 0:
        try:
            refused: list[str] = []
            try:
                os.close(living)
                confine(job, libc, user, life, nothing, refused)
                os.write(saying, STARTED)
            except BaseException as error:
                os.write(saying, (str(error) if isinstance(error, SystemExit) else described(error)).encode())
                return
            os.closerange(results + 1, 256)
            del libc
            run(job, results, refused)
        finally:
            os._exit(0)
    late = []

    def end(*_):
        late.append(True)
        os.kill(inner, signal.SIGKILL)

    try:
        os.close(saying)
        os.close(life)
        with open(word, "rb") as heard:
            said = heard.read()
        if said == STARTED:
            signal.signal(signal.SIGALRM, end)
            signal.setitimer(signal.ITIMER_REAL, limits["seconds"])
            os.waitid(os.P_PID, inner, os.WEXITED | os.WNOWAIT)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        # It is not waited for yet, so its number is still its; so is that of its group, of which something may be left.
        os.kill(inner, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(inner, signal.SIGKILL)
    _, status, used = os.wait4(inner, 0)
    if said != STARTED:
        sys.exit(said.decode(errors="replace") or "a process that ended before the program's start")
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    # Half of the limit: what the kernel limits by is counted in ticks, and may be far from what it reports.
    spent = used.ru_utime + used.ru_stime > limits["cpu_seconds"] / 2
    out_of_time = bool(late) or killed == signal.SIGXCPU or (killed == signal.SIGKILL and spent)
    last = {"killed": killed, "out_of_time": out_of_time, "walls": walls}
    os.write(2, json.dumps(last).encode())


def confine(job: dict, libc: ctypes.CDLL, user: int | None, life: int, nothing: int, refused: list[str]) -> None:
    """Makes this process, the fork, one that may run the program. `life` ends with the guard."""
    die_with_parent(libc)
    end_without(life)
    os.setsid()  # so that signals to its group reach nobody else
    give_up_rights(libc, user)
    die_with_parent(libc)
    end_without(life)
    try:
        with open(ast.__file__):
            pass
    except OSError:
        sys.exit("root needs namespaces here, or a Python that other users may read")
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    for name in [name for name in sys.modules if name.split(".")[0] in FOREIGN_CODE]:
        del sys.modules[name]
    limit(job["limits"])
    start_no_process()
    place = os.getcwd()
    os.environ["TMPDIR"] = place
    sys.argv, sys.path_importer_cache = [os.path.join(place, "program.py")], {}
    if job["hooks"]:
        watch(place, job["visible"], refused)


def die_with_parent(libc: ctypes.CDLL) -> None:
    """Asks to be ended with the parent, which a change of user undoes."""
    check(libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))


def end_without(life: int) -> None:
    """Ends this process when the other end of a pipe is closed: its holder was gone before it could be asked to die with it."""
    os.set_blocking(life, False)
    with contextlib.suppress(BlockingIOError):
        os.read(life, 1)
        os._exit(0)


def user_map() -> str:
    """Which users there are, by ranges: the first, who that is outside of this user namespace, and how many."""
    try:
        with open("/proc/self/uid_map") as file:
            return file.read()
    except OSError:
        return f"0 0 {2**32 - 1}"  # a kernel without user namespaces; elsewhere, to become a user who is not there fails


def unused_user(users: str, number: int) -> int | None:
    """For root, a user id that owns nothing, another one for another number; None where root is the only user, an ordinary one.

    Root itself would not do: the kernel does not count its processes. Ends this process where there is nobody else to be.
    """
    ranges = [tuple(map(int, line.split())) for line in users.splitlines()]
    for first, _, count in ranges:
        if first <= 2**30 + number < first + count:
            return 2**30 + number
    first, _, count = max(ranges, key=lambda one: one[2])
    # The last ones of what is mostly 65536: people and services are given the first ones, and `nobody` is left out.
    if count > 2**12:
        return first + count - 2**11 + number % 2**10
    if any(first == outside == 0 for first, outside, _ in ranges):
        sys.exit("root is root outside of its user namespace, too, and has no other user to be")
    return None


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
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError:
            sys.exit("root needs the right to be another user")
    # Version 3 of the header, this process; no capability of any of the three sets.
    check(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()))
    check(libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def limit(limits: dict) -> None:
    """Sets limits for good. Raises OSError or ValueError where one cannot be set."""
    wanted = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["files"],
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for number, most in wanted.items():
        _, hard = resource.getrlimit(number)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (most, most))


def start_no_process() -> None:
    """Tries to start one, which ends at once. Ends this process where that is possible: the limit does not hold for everybody."""
    try:
        other = os.fork()
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return
        raise
    if other == 0:
        os._exit(0)
    os.waitpid(other, 0)
    sys.exit("the kernel does not limit the processes of this user")


def own_copy(module):
    """Another one of a module of functions, so that what the program does to the first changes nothing."""
    spec = importlib.util.spec_from_file_location(module.__name__, module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def watch(place: str, visible: list[str], refused: list[str]) -> None:
    """Refuses, for good, what Python audits and a function that only computes has no need of; keeps what was refused."""
    paths = own_copy(os.path)
    paths.stat = own_copy(stat)
    real, status, folder_kind = paths.realpath, os.stat, stat.S_IFDIR
    allowed, reading, writing, foreign = ALLOWED, READING, dict(WRITING), FOREIGN_CODE | {"posix", "_posixsubprocess"}
    to_write = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    place = real(place)
    readable = (place, *map(real, visible))

    def inside(path, folders):
        path = "." if path is None or path == "" else path
        if not isinstance(path, (str, bytes)):
            return False
        path = real(path.decode(errors="surrogateescape") if isinstance(path, bytes) else path)
        return any(path == folder or path.startswith(folder + "/") for folder in folders)

    def is_folder(path):
        try:
            return status(path).st_mode & 0o170000 == folder_kind
        except (OSError, ValueError):
            return False

    def fine(event, args):
        if event in allowed:
            return True
        if event == "import":
            return args[0] not in foreign
        if event == "open":
            path, _, flags = args
            if type(path) is int:  # open already
                return True
            # What is read in a folder that is open, is relative to it, and not audited as such.
            return inside(path, (place,) if flags & to_write else readable) and (inside(path, (place,)) or not is_folder(path))
        if event in reading:
            return inside(args[0], readable)
        if event not in writing:
            return False
        given, relative = writing[event]
        return all(inside(args[i], (place,)) for i in given) and all(args[i] in (-1, None) for i in relative if i < len(args))

    def hook(event, args):
        if not fine(event, args):
            refuse(event)

    def refuse(event):
        refused.append(event)
        raise PermissionError(f"the sandbox refuses {event}")

    for module in (os, sys.modules["posix"]):
        for name in UNAUDITED:
            if hasattr(module, name):
                delattr(module, name)
    importlib.import_module("_posixsubprocess").fork_exec = lambda *_: refuse("_posixsubprocess.fork_exec")
    # So that the library removes folders by their paths.
    os.supports_dir_fd.clear()
    os.supports_fd.clear()
    sys.addaudithook(hook)


def run(job: dict, results: int, refused: list[str]) -> None:
    """Runs the program on every call and writes what came of each."""
    (path,), longest = sys.argv, job["limits"]["output"]
    escaped = json.encoder.encode_basestring_ascii
    arguments = [parsed(text) for text in job["calls"]] if job["entry"] else []

    def tell(index, kind, text):
        os.write(results, f'[{index}, "{kind}", {escaped(text)}]\n'.encode())

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

    if attempt(-1, save, path, job["source"]) is None:
        return
    if job["entry"] is None:
        for index, text in enumerate(job["calls"]):
            attempt(index, printed, path, text)
        return
    function = attempt(-1, load, path, job["entry"], job["home"])
    if function is not None:
        for index, given in enumerate(arguments):
            attempt(index, called, function, given)


def save(path: str, source: str) -> str:
    with open(path, "wb") as file:
        file.write(source.encode("utf-8", "surrogatepass"))
    return path


def parsed(text: str):
    """What a call has for arguments, read before the program can change how; or why it cannot be read."""
    try:
        return ast.literal_eval(text)
    except Exception as error:
        return error


def described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "an exception that cannot be described"


def load(path: str, entry: str, home: str | None):
    """The function of this name in the program, which sees the names of the module `home`.

    The function of this name in `home` is nowhere to be found: whoever calls it calls the program's.
    """
    spec = importlib.util.spec_from_file_location("program", path)
    module = importlib.util.module_from_spec(spec)
    names = {} if home is None else vars(importlib.import_module(home))
    true = names.get(entry)

    def own(*given, **named):
        return vars(module).get(entry, true)(*given, **named)  # the library's own until there is one: to load needs the library

    vars(module).update({name: value for name, value in names.items() if not name.startswith("__") and value is not true})
    sys.modules["program"] = module
    if true is not None:
        replace(true, own)
    spec.loader.exec_module(module)
    function = vars(module).get(entry)
    if not callable(function):
        raise NameError(f"no function {entry}")
    replace(own, function)
    return function


def replace(old, new) -> None:
    """Puts one thing where another is in any module."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)


def called(function, arguments) -> str:
    """The value of a call, as text; of an argument that the call changed, too."""
    if isinstance(arguments, Exception):
        raise arguments
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
