"""SkyPilot's tasks: by a schema of the fields used, by SkyPilot's own where it is installed."""

import copy
import re

import jsonschema
import pytest
import yaml

from taxonomy import config as config_lib
from taxonomy import errors

from . import common, schemas

FILES = sorted((common.LAUNCH / "sky").glob("*.yaml"))
READ = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}


def test_there_is_one_for_each_use():
    assert set(READ) == {"cpu", "host", "pod", "spot"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_schema(path):
    jsonschema.validate(READ[path.stem], schemas.SKY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_skypilots_own_schema(path):
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml_config(
        copy.deepcopy(READ[path.stem]) | {"workdir": str(common.ROOT)}, env_overrides=[("BUCKET", "my-bucket")]
    )
    assert task.run == READ[path.stem]["run"]


@pytest.mark.parametrize("name", READ)
def test_all_start_the_same_command_with_the_same_parameters(name):
    task = READ[name]
    assert task["run"] == ".venv/bin/python launch/start.py" and task["setup"].startswith("bash launch/host.sh prepare")
    assert {"CONFIG", "WORKDIR", "OVERRIDES"} <= set(task["envs"])
    config_lib.load_config(task["envs"]["CONFIG"])
    if "accelerators" in task["resources"]:  # then what is kept is kept in the bucket
        assert task["envs"]["WORKDIR"].startswith("/bucket/") and task["envs"]["BUCKET"] is None
        assert task["setup"].endswith('tpu "$BUCKET"')


def test_exit_codes_drive_recovery():
    recovery = READ["spot"]["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [errors.PREEMPTED, errors.HUNG] and "max_restarts_on_errors" not in recovery
    assert READ["spot"]["resources"]["use_spot"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_at_the_top_is_that_files(path):
    command = re.search(r"^#   (sky .*)$", path.read_text(), re.MULTILINE)[1]
    assert command.endswith(f"launch/sky/{path.name}")
    assert set(re.findall(r"--env (\w+)=", command)) >= {name for name, value in READ[path.stem]["envs"].items() if value is None}
