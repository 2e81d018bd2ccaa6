"""One host: what is installed and mounted, and the command that the environment stands for."""

import configparser
import os
import subprocess
import sys

import pytest

from taxonomy import errors

from . import common


@pytest.fixture
def host(desk):
    """A host's home with the launchers' checkout, and a way to call host.sh there."""
    desk.furnish_host()
    common.copy_launch(desk.host / "taxonomy")
    path = f"{desk.host / 'bin'}:{os.environ['PATH']}"

    def call(*words: str, **variables: str) -> subprocess.CompletedProcess:
        environment = {"HOME": str(desk.host), "PATH": path, **variables}
        command = ["bash", "taxonomy/launch/host.sh", *words]
        return subprocess.run(command, cwd=desk.host, env=environment, capture_output=True, text=True)

    return call


def unit(desk, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read(desk.folder / "root/etc/systemd/system" / name)
    return parser


def test_exit_codes_drive_what_starts_again(desk, host):
    assert host("start", CONFIG="c", WORKDIR="/w").returncode == 0
    service = unit(desk, "taxonomy.service")["Service"]
    kept = {errors.BAD_INPUT, errors.DIVERGED, errors.NO_CHECKPOINT}
    assert service["Restart"] == "on-failure" and set(map(int, service["RestartPreventExitStatus"].split())) == kept
    # PREEMPTED and HUNG are failures, and no success by another line.
    assert "SuccessExitStatus" not in service and service["KillMode"] == "mixed"


def test_the_exit_code_of_the_run_is_the_hosts(desk, host):
    (desk.folder / "exit_code").write_text("42")
    assert host("start", CONFIG="c", WORKDIR="/w").returncode == 0
    assert host("run").returncode == 42
    assert desk.trained() == ["-m", "taxonomy.train", "--config=c", "--workdir=/w"]


def test_a_bucket_is_mounted_so_that_hosts_see_each_others_files(desk, host):
    desk.fake("touch", where=desk.host / "bin")
    desk.fake("rm", where=desk.host / "bin")
    done = host("prepare", "tpu", "gs://my-bucket")
    assert done.returncode == 0, done.stderr
    mount = unit(desk, "bucket.mount")["Mount"]
    assert (mount["What"], mount["Where"], mount["Type"]) == ("my-bucket", "/bucket", "gcsfuse")
    assert {"metadata_cache_ttl_secs=0", "metadata_cache_negative_ttl_secs=0", "allow_other"} <= set(mount["Options"].split(","))
    assert desk.calls("systemctl")[-1] == ["start", "bucket.mount"]


def test_a_bucket_that_cannot_be_written_to_is_told(desk, host):
    desk.fake("touch", "sys.exit(1)", desk.host / "bin")
    assert "storage.objectUser" in common.one_line(host("prepare", "tpu", "my-bucket"), 2)


def test_without_an_extra_or_a_bucket(desk, host):
    assert host("prepare").returncode == 0
    assert desk.calls("uv")[-1][-1] == "." and desk.calls("systemctl") == []


def test_an_unknown_word(host):
    assert "'begin'" in common.one_line(host("begin"), 2)


def test_status_is_one_line(desk, host):
    desk.unit(ExecMainStatus=42, NRestarts=3)
    (line,) = host("status").stdout.splitlines()
    assert line.startswith("taxonomy-host=") and line.endswith(" ExecMainStatus=42 NRestarts=3")


@pytest.mark.parametrize(
    "variables, said",
    [
        ({}, "CONFIG: required"),
        ({"CONFIG": "c"}, "WORKDIR: required"),
        ({"CONFIG": "c", "WORKDIR": "gs://bucket/a"}, "mount the bucket"),
        ({"CONFIG": "c", "WORKDIR": "w", "OVERRIDES": '--a="b'}, "No closing quotation"),
        ({"CONFIG": "c", "WORKDIR": "w", "OVERRIDES": "--a=b c"}, "'c' is no flag"),
    ],
)
def test_start_refuses_in_one_line(variables, said):
    command = [sys.executable, str(common.LAUNCH / "start.py")]
    assert said in common.one_line(subprocess.run(command, env=variables, capture_output=True, text=True), 2)


def test_start_becomes_the_command():
    """The package itself reads what start.py hands on."""
    command = [sys.executable, str(common.LAUNCH / "start.py")]
    environment = {**os.environ, "CONFIG": "configs/quickstart.py", "WORKDIR": "runs/none", "PYTHONPATH": str(common.ROOT)}
    overrides = "--config.name='two words' --print_config"
    done = subprocess.run(command, env=environment | {"OVERRIDES": overrides}, cwd=common.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and '"name": "two words"' in done.stdout, done.stderr
    refused = subprocess.run(
        command, env=environment | {"OVERRIDES": "--config.nmae=a"}, cwd=common.ROOT, capture_output=True, text=True
    )
    assert refused.returncode == errors.BAD_INPUT
