"""Launchers run where `gcloud`, `sudo`, `systemctl` and others only write down how they were called.

desk.run(*words)         a launcher as its user runs it; desk.calls(program) is what it called
desk.answer(verb, ...)   what gcloud answers to a verb, in turn; the last answer is repeated
desk.host                the home directory of a host: ssh runs its command there, scp copies to it
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# Written down as JSON before anything else. What follows runs as a module's body in Python, with `words` and `desk`.
_FAKE = """\
#!{python} -IS
import json, os, pathlib, shutil, subprocess, sys
desk, words = pathlib.Path({desk!r}), sys.argv[1:]
with (desk / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([{name!r}, *words]) + "\\n")
"""
_GCLOUD = """
verb = next((w for w in words if w in ("create", "describe", "delete", "ssh", "scp")), "")
answers = json.loads((desk / "answers.json").read_text())
if answers.get(verb):
    code, out, err = answers[verb][0]
    answers[verb] = answers[verb][1:] or answers[verb]
    (desk / "answers.json").write_text(json.dumps(answers))
    print(out, end="")
    print(err, end="", file=sys.stderr)
    if code is not None:
        sys.exit(code)
if verb == "scp":
    shutil.copy(words[words.index("scp") + 1], desk / "host")
if verb == "ssh":
    command = next(w.removeprefix("--command=") for w in words if w.startswith("--command="))
    path = str(desk / "host/bin") + ":" + os.environ["PATH"]
    sys.exit(subprocess.run(["bash", "-c", command], cwd=desk / "host", env={"HOME": str(desk / "host"), "PATH": path}).returncode)
"""
# The root of the host's file system is a directory.
_SUDO = """
if words[0] == "tee":
    target = desk / "root" / words[-1].lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(sys.stdin.read())
else:
    os.execvp(words[0], words)
"""
# The host's interpreter, in which the package is installed: only what start.py runs is written down.
_PYTHON = """
if words[:1] == ["-m"]:
    (desk / "argv.json").write_text(json.dumps(words))
    sys.exit(int((desk / "exit_code").read_text()) if (desk / "exit_code").exists() else 0)
script = pathlib.Path(words[0]).read_text()
sys.executable = {venv!r}
exec(compile(script, words[0], "exec"), {{"__name__": "__main__", "__file__": words[0]}})
"""


class Desk:
    def __init__(self, folder: pathlib.Path):
        self.folder, self.host = folder, folder / "host"
        self.bin = folder / "bin"
        for directory in (self.bin, self.host / "bin"):
            directory.mkdir(parents=True)
        (folder / "answers.json").write_text("{}")
        self.fake("gcloud", _GCLOUD)

    def fake(self, name: str, body: str = "", where: pathlib.Path | None = None) -> pathlib.Path:
        path = (where or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_FAKE.format(python=sys.executable, desk=str(self.folder), name=name) + body)
        path.chmod(0o755)
        return path

    def furnish_host(self) -> None:
        """Gives the host what `host.sh` uses, and an interpreter that writes down what it is to run."""
        tools = self.host / "bin"
        self.fake("sudo", _SUDO, tools)
        for name in ("uv", "gcsfuse", "journalctl"):
            self.fake(name, where=tools)
        self.fake("systemctl", "print((desk / 'unit').read_text() if words[0] == 'show' else '', end='')", tools)
        self.unit(ActiveState="active", SubState="running")
        venv = self.host / "taxonomy/.venv/bin/python"
        self.fake("python", _PYTHON.format(venv=str(venv)), venv.parent)

    def unit(self, **properties: Any) -> None:
        """What systemd says of the run."""
        known = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "ExecMainStatus": 0, "NRestarts": 0}
        (self.folder / "unit").write_text("".join(f"{k}={v}\n" for k, v in (known | properties).items()))

    def answer(self, verb: str, *answers: tuple[int | None, str, str]) -> None:
        """Exit code (None: does what it should), stdout and stderr of the next calls of gcloud with this verb."""
        path = self.folder / "answers.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {verb: answers}))

    def states(self, *states: str) -> None:
        """The states of the queued resource, in turn."""
        self.answer("describe", *((0, json.dumps({"state": {"state": state}}), "") for state in states))

    def run(self, *words: str, script: str = "tpu_vm.py", **variables: str) -> subprocess.CompletedProcess:
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.folder), **variables}
        # Without what is installed: Python's standard library has to do.
        command = [sys.executable, "-S", str(LAUNCH / script), *words]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)

    def calls(self, program: str = "gcloud") -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == program]

    def verbs(self) -> list[str]:
        return [next(w for w in call if w in ("create", "describe", "delete", "ssh", "scp")) for call in self.calls()]

    def trained(self) -> list[str]:
        """The command that the host ran in the end."""
        return json.loads((self.folder / "argv.json").read_text())


def flags_of(call: list[str]) -> dict[str, str]:
    """The flags of a call, by name."""
    return dict(word.split("=", 1) for word in call if word.startswith("--") and "=" in word)


def copy_launch(folder: pathlib.Path) -> pathlib.Path:
    """A checkout with the launchers alone, to run in."""
    shutil.copytree(LAUNCH, folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def one_line(done: subprocess.CompletedProcess, code: int) -> str:
    """The last line that a launcher which failed has said, which is its error."""
    assert done.returncode == code, textwrap.indent(done.stderr, "  ")
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("error: ") and sum(line.startswith("error: ") for line in lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1]
