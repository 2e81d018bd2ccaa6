"""Programs that nobody has read: each attack fails, and touches nothing outside."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from taxonomy.errors import UserError
from taxonomy.inference import sandbox
from taxonomy.inference.sandbox import Limits, Outcome, Program, Verdict, judge, run

SMALL = Limits(seconds=8, cpu_seconds=1, memory=256 * 2**20, files=2**20)


def one(body: str, call: str = "()", limits: Limits = SMALL, **options) -> Outcome:
    """What comes of a function with this body, called once."""
    arguments = "x" if call != "()" else ""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return run(Program(f"def f({arguments}):\n{lines}", "f"), [call], limits, **options)[0]


@pytest.mark.parametrize(
    ("call", "body", "value"),
    [
        ("(1,)", "return x + 1", "2"),
        ("('ä',)", "return {'b': [x, None], 'a': (1.0, True)}", "{'a': (1.0, True), 'b': ['ä', None]}"),
        ("([3, 1],)", "x.sort()", "None, arguments now ([1, 3],)"),
        ("(5,)", "return set(map(str, range(x))), frozenset()", "(set({'0', '1', '2', '3', '4'}), frozenset())"),
    ],
)
def test_a_value_is_written_the_same_way_each_time(call, body, value, programs):
    assert {one(body, call, seed=seed) for seed in (0, 1)} == {Outcome("value", value)}


def test_every_call_has_an_outcome(programs):
    calls = ["(1,)", "(0,)", "(2,)", "('a',)"]
    found = run(Program("def f(x):\n    return 1 // x", "f"), calls, SMALL)
    assert [outcome.kind for outcome in found] == ["value", "error", "value", "error"]
    assert found[1].text.startswith("ZeroDivisionError")
    found = run(Program("def f(x):\n    while x: pass\n    return x", "f"), ["(0,)", "(1,)", "(0,)"], SMALL)
    assert [outcome.kind for outcome in found] == ["value", "timeout", "timeout"]


def test_a_script_reads_and_prints(programs):
    found = run(Program("print(int(input()) + 1, ' ')"), ["3\n", "x\n"], SMALL)
    assert found[0] == Outcome("value", "4") and found[1].kind == "error"


def test_a_function_sees_the_names_of_its_module(programs):
    wrap = "def shorter(text):\n    return TextWrapper(width=3).wrap(text)"
    assert run(Program(wrap, "shorter", "textwrap"), ["('a b c',)"], SMALL)[0].text == "['a b', 'c']"
    assert run(Program(wrap, "shorter"), ["('a b c',)"], SMALL)[0].text.startswith("NameError")


def test_a_function_takes_the_place_of_its_module_s(programs):
    """Whoever calls that one, calls itself; whoever computes the value is right."""
    leaning = [
        "def decode_long(data):\n    import pickle\n    return pickle.decode_long(data)",
        "def decode_long(data):\n    return true(data)\nfrom pickle import decode_long as true",
        "def decode_long(data):\n    return true(data)\nimport pickle as home\ntrue = home.decode_long",
    ]
    found = [run(Program(text, "decode_long", "pickle"), ["(b'ab',)"], SMALL)[0] for text in leaning]
    assert [outcome.text[:14] for outcome in found] == ["RecursionError"] * 3
    honest = "def decode_long(data):\n    return int.from_bytes(data, 'little', signed=True)"
    assert run(Program(honest, "decode_long", "pickle"), ["(b'ab',)"], SMALL) == [Outcome("value", "25185")]
    alias = "def b16encode(s):\n    return standard_b64encode(s)"  # another name for another function stays
    assert run(Program(alias, "b16encode", "base64"), ["(b'a',)"], SMALL)[0].text == "b'YQ=='"


@pytest.mark.parametrize(
    ("home", "entry", "body"),
    [("posixpath", "join", "return OUTSIDE"), ("posixpath", "_joinrealpath", "return x"), ("ast", "literal_eval", "return 7")],
)
def test_a_wrong_function_changes_nothing_of_the_sandbox(home, entry, body, outside, programs):
    text = f"def {entry}(*x):\n    try: open(OUTSIDE, 'w')\n    except OSError: pass\n    {body}"
    assert run(Program(outside(text), entry, home), ["('a', {1: 2})"], SMALL)[0] == Outcome("refused", "open")


def test_temporary_files_are_its_own(programs):
    body = """import os, tempfile
with tempfile.TemporaryFile() as file, tempfile.NamedTemporaryFile("w") as other: other.write("x")
with tempfile.TemporaryDirectory() as folder: open(os.path.join(folder, "own"), "w").close()
return os.listdir(tempfile.gettempdir())"""
    assert one(body) == Outcome("value", "['program.py']")


ATTACKS = {
    "endless loop": ("while True: pass", "timeout"),
    "endless wait": ("import time; time.sleep(60)", "timeout"),
    "loop that catches": ("while True:\n  try:\n    while True: pass\n  except BaseException: pass", "timeout"),
    "memory bomb": ("x = ['']\nwhile True: x += x", "memory"),
    "one large thing": ("return 'x' * 2**40", "memory"),
    "deep recursion": ("import sys; sys.setrecursionlimit(10**9)\ndef g(): return g()\ng()", ("memory", "error", "timeout")),
    "processes": ("import os\nfor _ in range(3): os.fork()", "refused"),
    "process": ("import subprocess; subprocess.run(['true'])", "refused"),
    "shell": ("import os; os.system('true')", "refused"),
    "thread": ("import threading\nfor _ in range(3): threading.Thread(target=int).start()", ("refused", "error")),
    "write": ("open(OUTSIDE, 'w')", "refused"),
    "remove": ("import os; os.remove(OUTSIDE)", "refused"),
    "link out": ("import os; os.symlink(OUTSIDE, 'here'); open('here', 'w')", "refused"),
    "read": ("return open(OUTSIDE).read()", "refused"),
    "write in a folder": (
        "import os\nfolder = os.open(os.path.dirname(os.__file__), 0)\nos.open('program.py', os.O_WRONLY, dir_fd=folder)",
        "refused",
    ),
    "make in a folder": ("import os; os.mkdir('new', dir_fd=os.open('.', 0))", "refused"),
    "pipe": ("import os; os.mkfifo(OUTSIDE + 'x')", "error"),
    "device": ("import posix; posix.mknod(OUTSIDE + 'x')", "error"),
    "unaudited process": (
        "import _posixsubprocess; _posixsubprocess.fork_exec(*[None] * 21)",
        "refused",
    ),
    "unaudited module": ("import sys; del sys.modules['posix']\nimport posix", "refused"),
    "large file": ("open('own', 'w').write('x' * 2**24)", "error"),
    "socket": ("import socket; socket.create_connection(('127.0.0.1', PORT))", "refused"),
    "caught": ("import os\ntry: os.fork()\nexcept BaseException: pass\nreturn 1", "refused"),
    "signal": ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "refused"),
    "foreign code": ("import ctypes; ctypes.CDLL(None).abort()", "refused"),
    "end": ("import os; os._exit(0)", "error"),
    "crash": ("import os; os.abort()", "error"),
    "long value": ("return 'x' * 2**17", "error"),
    "no value": ("return object()", "error"),
    "no such text": ("return (", "error"),
}


@pytest.fixture
def outside(tmp_path):
    """A file and a listening socket that no program may touch."""
    file = tmp_path / "file"
    file.write_text("as it was")
    file.chmod(0o666)
    tmp_path.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield lambda body: body.replace("OUTSIDE", repr(str(file))).replace("PORT", str(server.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert file.read_text() == "as it was" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_fails(attack, outside, programs):
    body, kinds = ATTACKS[attack]
    waits = attack == "endless wait"
    outcome = one(outside(body), limits=Limits(seconds=0.5) if waits else SMALL)
    assert outcome.kind in kinds and outcome.text
    assert judge([outcome], ["1"]).kind == outcome.kind


@pytest.mark.parametrize("attack", ["processes", "process", "write", "remove", "link out", "read", "socket", "signal"])
def test_the_kernel_refuses_it_too(attack, outside, walled):
    outcome = one(outside(ATTACKS[attack][0]), hooks=False)
    # A signal to process 0 is one to its own group, of which the program is the only member and cannot be killed by itself.
    assert outcome == Outcome("value", "None") if attack == "signal" else outcome.kind == "error"


def test_there_is_nobody_else_to_be_seen(walled):
    seen = one("import os, socket\nreturn os.getpid(), os.listdir('/'), [n for _, n in socket.if_nameindex()]", hooks=False)
    pid, folders, networks = eval(seen.text)
    assert pid == 1 and networks == ["lo"] and not {"proc", "home", "dev", "etc"} & set(folders)


def test_nothing_is_inherited(monkeypatch, tmp_path, programs):
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    with open(tmp_path / "file", "w") as file:
        os.set_inheritable(file.fileno(), True)
        body = "import os, sys\nfiles = 0\nfor i in range(256):\n  try: os.fstat(i); files += 1\n  except OSError: pass\n"
        outcome = one(body + "return dict(os.environ), files, len(sys.argv)")
    environment, files, arguments = eval(outcome.text)
    assert set(environment) <= {"LD_LIBRARY_PATH", "PYTHONHASHSEED", "PYTHONUTF8", "TZ", "HOME", "LC_CTYPE", "TMPDIR"}
    assert (files, arguments) == (4, 1)  # three that lead nowhere, and the one for answers


def test_limits_and_hooks_hold_without_namespaces(outside, programs):
    try:
        loop = one("while True: pass", isolate=False)
    except UserError as error:
        pytest.skip(str(error))
    assert loop.kind == "timeout"
    for attack in ("memory bomb", "processes", "write", "socket", "read"):
        assert one(outside(ATTACKS[attack][0]), isolate=False).kind == ATTACKS[attack][1]


def test_one_wall_stands_at_least(programs):
    with pytest.raises(UserError, match=r"^sandbox: cannot run programs safely: audit hooks may be left out only where"):
        one("return 1", hooks=False, isolate=False)


def test_nothing_runs_elsewhere(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"^sandbox: cannot run programs safely: the system is darwin, not linux$"):
        one("return 1")


def child(code: str) -> subprocess.CompletedProcess:
    """Runs code that sees the names of the sandbox's inside."""
    names = f"import os, sys; sys.path.insert(0, {str(sandbox.CHILD.parent)!r}); from sandbox_child import *; "
    return subprocess.run([sys.executable, "-c", names + code], capture_output=True, text=True)


def test_a_process_that_can_be_started_is_noticed():
    """The test that each program's process makes of itself: one process, which ends at once."""
    found = child("start_no_process()")
    assert (found.returncode, found.stderr) == (1, "the kernel does not limit the processes of this user\n")


def test_a_process_whose_guard_is_gone_ends():
    assert child("r, w = os.pipe(); end_without(r); print('alive')").stdout == "alive\n"
    assert child("r, w = os.pipe(); os.close(w); end_without(r); print('alive')").stdout == ""


def test_root_of_a_namespace_that_is_root_outside_runs_nothing(programs):
    """Its processes would not be counted."""
    code = "from taxonomy.inference.sandbox import *; print(run(Program('def f(): return 1', 'f'), ['()']))"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and the command unshare")
    found = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
    if "unshare failed" in found.stderr:
        pytest.skip(found.stderr)
    assert found.stderr.endswith("root is root outside of its user namespace, too, and has no other user to be\n")


def test_root_becomes_a_user_who_is_there():
    from taxonomy.inference import sandbox_child

    every, own, container = "0 0 4294967295", "0 1000 1", "0 1000 1\n1 100000 65536"
    assert sandbox_child.unused_user(every, 7) == 2**30 + 7
    assert sandbox_child.unused_user(own, 7) is None
    users = {sandbox_child.unused_user(container, number) for number in range(100)}
    assert len(users) == 100 and min(users) > 60000 and max(users) < 65534
    with pytest.raises(SystemExit, match=r"has no other user to be$"):
        sandbox_child.unused_user("0 0 1", 7)


@pytest.mark.parametrize("limits", [Limits(memory=2**20), Limits(cpu_seconds=2**70)])
def test_failures_of_the_sandbox_are_its_own(limits, programs):
    with pytest.raises(UserError, match=r"^sandbox: cannot run programs safely: [^\n]+$"):
        one("return 1", limits=limits)


@pytest.mark.parametrize("line", ['[1e999, "value", "x"]', '[true, "value", "x"]', '[0, [], "x"]', '[0, "value", 1]', "[" * 9999])
def test_answers_that_cannot_be_read_are_the_program_s(line, programs):
    outcome = one(f"import os\nos.write(3, {(line + chr(10)).encode()!r})\nos._exit(0)")
    assert outcome == Outcome("error", "ended before its answer")


def test_any_signal_has_a_number():
    last = {"killed": 35, "out_of_time": False, "walls": []}
    assert sandbox._outcomes(b"", json.dumps(last).encode(), 1)[0] == [Outcome("error", "killed by signal 35")]


def test_the_caller_s_umask_does_not_matter(walled):
    before = os.umask(0o077)
    try:
        assert one("return 1") == Outcome("value", "1")
    finally:
        os.umask(before)


def test_a_program_cannot_answer_for_the_judge(programs):
    forged = (
        'import os\nfor i in range(3, 9):\n  try: os.write(i, b\'[0, "passed", "1"]\\n[[[\\n\')\n  except OSError: pass\nreturn 2'
    )
    assert judge([one(forged)], ["1"]).kind == "error"


def test_programs_run_side_by_side_in_order(programs):
    jobs = [(Program(f"import time\ndef f():\n    time.sleep({1.2 - i / 5})\n    return {i}", "f"), ["()"]) for i in range(4)]
    assert [outcomes[0].text for outcomes in sandbox.run_all(jobs, SMALL, workers=4)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("confined", [False, True])
def test_a_program_dies_with_its_caller(confined, tmp_path, programs):
    """And so does the process that guards it: as soon as there is one, and when the program runs."""
    code = (
        "from taxonomy.inference.sandbox import *; run(Program('import time\\ndef f(): time.sleep(60)', 'f'), ['()'], Limits(60))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # a caller that is killed leaves an empty folder

    def started():
        inner = [child for guard in children(caller.pid) for child in children(guard)]
        return inner if not confined or any(runs(pid) for pid in inner) else []

    caller = subprocess.Popen([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[2], env=environment)
    try:
        inner = until(started)
        family = [*children(caller.pid), *inner]
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    assert inner and until(lambda: not [pid for pid in family if alive(pid)])


def runs(pid: int) -> bool:
    """Whether a process has given up its rights."""
    try:
        return "NoNewPrivs:\t1" in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def status(pid: int) -> list[str]:
    """State and parent of a process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return ["Z", "0"]


def alive(pid: int) -> bool:
    return status(pid)[0] not in "ZX"


def children(parent: int) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and status(int(name))[1] == str(parent)]


def until(found, seconds: float = 30):
    end = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def test_verdicts():
    good, bad = Outcome("value", "1"), Outcome("error", "TypeError: no")
    assert judge([good, good], ["1", "1"]) == Verdict("passed", "")
    assert judge([good, good], ["1", "2"]) == Verdict("wrong", "call 1: 1 instead of 2")
    assert judge([good, bad], ["2", "2"]).kind == "wrong" and judge([bad, good], ["2", "1"]) == Verdict("error", bad.text)
    assert judge([good, Outcome("refused", "os.fork")], ["2", "1"]) == Verdict("refused", "os.fork")


@pytest.mark.parametrize("field", ["seconds", "cpu_seconds", "memory", "files", "output"])
def test_limits_are_checked(field):
    with pytest.raises(ValueError, match=rf"^{field}=0 is too small for any program$"):
        Limits(**{field: 0})


@pytest.mark.parametrize("field", ["seconds", "cpu_seconds", "memory", "files", "output"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), "1", True, None])
def test_limits_are_numbers(field, value):
    with pytest.raises(ValueError, match=rf"^{field}={value!r} is no (finite|whole) number$"):
        Limits(**{field: value})


@pytest.mark.parametrize("field", ["cpu_seconds", "memory", "files", "output"])
def test_limits_are_whole(field):
    with pytest.raises(ValueError, match=rf"^{field}=1.5 is no whole number$"):
        Limits(**{field: 1.5})
    assert Limits(seconds=1.5).seconds == 1.5
