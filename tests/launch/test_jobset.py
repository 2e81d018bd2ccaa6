"""The JobSet: what GKE is told of slices, hosts and failures."""

import shlex

import jsonschema
import pytest
import yaml

from taxonomy import errors

from . import common, schemas

RUN = {"BUCKET": "gs://b/", "CONFIG": "configs/quickstart.py", "WORKDIR": "/bucket/runs/a", "IMAGE": "images/taxonomy:1"}
NASTY = '--config.name=it\'s "a: b" #  {{x}} $HOME \\n é 🙂'


def jobset(desk, *words: str, **variables: str) -> dict:
    done = desk.run(*words, script="jobset.py", **RUN, **variables)
    assert done.returncode == 0, done.stderr
    manifest = yaml.safe_load(done.stdout)
    jsonschema.Draft202012Validator(schemas.JOBSET, format_checker=jsonschema.FormatChecker()).validate(manifest)
    return manifest


def parts(manifest: dict) -> tuple[dict, dict, dict]:
    """The replicated job, its job and its pod."""
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    return replicated, job, job["template"]["spec"]


@pytest.mark.parametrize(
    "accelerator, flags, label, topology, hosts, chips",
    [
        ("v6e-1", (), "tpu-v6e-slice", "1x1", 1, 1),
        ("v6e-8", (), "tpu-v6e-slice", "2x4", 1, 8),
        ("v6e-32", ("--slices=2", "--spot"), "tpu-v6e-slice", "4x8", 8, 4),
        ("v5litepod-256", (), "tpu-v5-lite-podslice", "16x16", 64, 4),
        ("v5e-16", ("--queue=q",), "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v5p-8", (), "tpu-v5p-slice", "2x2x1", 1, 4),
        ("v5p-384", ("--topology=4x4x12",), "tpu-v5p-slice", "4x4x12", 48, 4),
        ("v4-128", ("--service_account=trainer",), "tpu-v4-podslice", "4x4x4", 16, 4),
        ("tpu7x-128", (), "tpu7x", "4x4x4", 16, 4),
    ],
)
def test_a_pod_for_each_host_of_each_slice(desk, accelerator, flags, label, topology, hosts, chips):
    replicated, job, pod = parts(jobset(desk, *flags, ACCELERATOR=accelerator))
    assert replicated["replicas"] == (2 if "--slices=2" in flags else 1)
    assert job["parallelism"] == job["completions"] == hosts
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == label
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": str(chips)}
    assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == ("tolerations" in pod) == ("--spot" in flags)
    mounted, volumes = ({one["name"] for one in where} for where in (container["volumeMounts"], pod["volumes"]))
    assert mounted == volumes


def test_exit_codes_drive_restarts(desk):
    manifest = jobset(desk, ACCELERATOR="v6e-8")
    _, job, _ = parts(manifest)
    codes = [rule["onExitCodes"]["values"] if "onExitCodes" in rule else [] for rule in job["podFailurePolicy"]["rules"]]
    actions = {}
    for number, rule in enumerate(manifest["spec"]["failurePolicy"]["rules"]):
        assert rule["onJobFailureMessagePatterns"] == [f"matching FailJob rule at index {number}$"]
        actions |= {code: rule["action"] for code in codes[number] or ["disrupted"]}
    again = "RestartJobSetAndIgnoreMaxRestarts"
    final = dict.fromkeys((errors.BAD_INPUT, errors.DIVERGED, errors.NO_CHECKPOINT), "FailJobSet")
    # Everything else restarts all pods, and counts.
    assert actions == {errors.PREEMPTED: again, "disrupted": again, **final}
    assert job["backoffLimit"] == 0 and manifest["spec"]["failurePolicy"]["maxRestarts"] == 10


def test_the_run_arrives_whole(desk):
    _, _, pod = parts(jobset(desk, "--", NASTY, ACCELERATOR="v6e-8", OVERRIDES="--config.model.mlp='gelu(d_ff=8)'"))
    (container,) = pod["containers"]
    assert container["command"] == ["python", "launch/start.py"]
    given = {one["name"]: one["value"] for one in container["env"]}
    assert shlex.split(given["OVERRIDES"]) == ["--config.model.mlp=gelu(d_ff=8)", NASTY]
    assert (given["CONFIG"], given["WORKDIR"]) == (RUN["CONFIG"], RUN["WORKDIR"])


def test_without_a_bucket(desk):
    done = desk.run(script="jobset.py", **RUN | {"BUCKET": "", "WORKDIR": "/data/a"}, ACCELERATOR="v6e-8")
    manifest = yaml.safe_load(done.stdout)
    jsonschema.validate(manifest, schemas.JOBSET)
    assert "gcsfuse" not in done.stdout


@pytest.mark.parametrize(
    "words, variables, said",
    [
        ((), {"ACCELERATOR": ""}, "export ACCELERATOR"),
        ((), {"IMAGE": ""}, "export IMAGE"),
        (("--topology=4x4",), {"ACCELERATOR": "v6e-32"}, "product of 32 chips"),
        (("--topology=4x8x1",), {"ACCELERATOR": "v6e-32"}, "expected 2 numbers"),
        ((), {"ACCELERATOR": "v5p-12"}, "no slice 'v5p-12'"),
        ((), {"ACCELERATOR": "v5p-384"}, "--topology: required"),
        (("--slices=0",), {}, "--slices"),
        (("--slices=two",), {}, "--slices"),
        (("--name=My_Run",), {}, "--name"),
        ((), {"WORKDIR": "gs://b/a"}, "mount the bucket"),
    ],
)
def test_bad_input_is_one_line(desk, words, variables, said):
    assert said in common.one_line(desk.run(*words, script="jobset.py", **RUN | {"ACCELERATOR": "v6e-8"} | variables), 2)
