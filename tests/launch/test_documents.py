"""What launch/README.md shows is run, with programs that only write down how they were called; scripts and images are checked."""

import ast
import itertools
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml

from taxonomy import errors

from . import common, schemas

README = (common.LAUNCH / "README.md").read_text()
COMMANDS = "\n".join(re.findall(r"^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
ENDED = "taxonomy-host=w-0 LoadState=loaded ActiveState=inactive SubState=dead ExecMainStatus=0 NRestarts=0\n"
# All but the commands of the package, which tests/test_readme.py runs.
_PYTHON = """
if words[0] != "-m":
    os.execv({python!r}, [{python!r}, "-S", *words])
"""
_SBATCH = """
assert all(os.environ[name] for name in ("CONFIG", "WORKDIR", "OVERRIDES")) and pathlib.Path(words[-1]).exists()
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Everything that the page shows, run from top to bottom in one shell."""
    desk = common.Desk(tmp_path_factory.mktemp("shown"))
    desk.states("ACTIVE")
    desk.answer("ssh", (0, ENDED, ""))
    desk.answer("scp", (0, "", ""))
    for name in ("ssh-add", "ssh-keygen", "docker", "sky"):
        desk.fake(name)
    desk.fake("python", _PYTHON.format(python=sys.executable))
    desk.fake("kubectl", "(desk / 'manifest').write_text(sys.stdin.read())")
    desk.fake("sbatch", _SBATCH)
    environment = {"PATH": f"{desk.bin}:/usr/bin:/bin", "HOME": str(desk.folder), "POLL": "0"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", COMMANDS], cwd=common.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return desk


def test_every_step_of_a_tpu_is_shown(shown):
    steps = {call[1] for call in shown.calls("python") if call[0] == "launch/tpu_vm.py"}
    assert steps == {"create", "wait", "setup", "run", "logs", "status", "stop", "delete", "up"}
    verbs = [call[3] for call in shown.calls() if call[2:3] == ["queued-resources"]]
    assert {"create", "describe", "scp", "ssh", "delete", "list"} == set(verbs)
    # The slice is gone in the end, and so is the bucket, which can rename directories.
    assert [verb for verb in verbs if verb in ("create", "delete")][-1] == "delete"
    made, removed = (
        next(c for c in shown.calls() if c[: len(w)] == w) for w in (["storage", "buckets", "create"], ["storage", "rm"])
    )
    assert {"--enable-hierarchical-namespace", "--uniform-bucket-level-access"} <= set(made) and removed[-1] == made[3]


def test_the_manifest_that_is_shown(shown):
    jsonschema.validate(yaml.safe_load((shown.folder / "manifest").read_text()), schemas.JOBSET)


def test_skypilots_tasks_get_what_they_need(shown):
    calls = shown.calls("sky")
    assert {call[-1] for call in calls} == {f"launch/sky/{path.name}" for path in (common.LAUNCH / "sky").glob("*.yaml")}
    for call in calls:
        task = yaml.safe_load((common.ROOT / call[-1]).read_text())
        given = {word.partition("=")[0] for flag, word in itertools.pairwise(call) if flag == "--env"}
        needed = {name for name, value in task["envs"].items() if value is None}
        assert needed <= given <= set(task["envs"])
        assert (call[:2] == ["jobs", "launch"]) == ("job_recovery" in task["resources"])


def test_images_are_built_from_files_that_are_there(shown):
    builds = [call for call in shown.calls("docker") if call[0] == "build"]
    assert builds and all(call[call.index("-f") + 1] == "launch/Dockerfile" for call in builds)
    dockerfile = (common.LAUNCH / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    allowed = {line[1:] for line in (common.LAUNCH / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed and all((common.ROOT / name).exists() for name in copied)
    assert re.search(r'^CMD \["python", "launch/start.py"\]$', dockerfile, re.MULTILINE)
    version = tuple(map(int, re.search(r"^FROM python:(\d+)\.(\d+)", dockerfile, re.MULTILINE).groups()))
    assert version >= (3, 11)


def test_the_table_of_exit_codes_is_that_of_the_package():
    table = set(map(int, re.findall(r"^\| (\d+) \|", README, re.MULTILINE)))
    codes = (errors.DONE, errors.BAD_INPUT, errors.DIVERGED, errors.NO_CHECKPOINT, errors.PREEMPTED, errors.HUNG)
    assert table == set(codes)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (common.LAUNCH / target).exists(), target


SCRIPTS = sorted([*common.LAUNCH.glob("*.sh"), *common.LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_is_content(path):
    shellcheck = shutil.which("shellcheck", path=f"{sys.prefix}/bin") or shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("no shellcheck")
    done = subprocess.run([shellcheck, "--enable=all", "--exclude=SC2250,SC2310,SC2312", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(common.LAUNCH.glob("*.py")), ids=lambda path: path.name)
def test_launchers_need_nothing_but_python(path):
    own = {other.stem for other in common.LAUNCH.glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            assert all(name.split(".")[0] in own | sys.stdlib_module_names for name in names), f"line {node.lineno}"
