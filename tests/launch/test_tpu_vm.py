"""Cloud TPU VMs: what gcloud is asked for, what happens when it refuses, and what arrives on the hosts."""

import json
import shlex
import subprocess

import pytest

from . import common

WHERE = {"TPU_NAME": "first", "ZONE": "us-east5-b"}
RUN = {**WHERE, "ACCELERATOR": "v6e-32", "BUCKET": "b", "CONFIG": "configs/quickstart.py", "WORKDIR": "/bucket/runs/a"}
QUOTED = """--config.model.mlp="moe(experts=8, top_k=2)" --config.data.source='text(glob="/bucket/*.txt")'"""
NASTY = ("--config.name=a b; rm -rf $HOME", '--config.name=it\'s `here` "\\n" $(id) *  two  spaces & | > x')


@pytest.mark.parametrize(
    "accelerator, flags, wanted",
    [
        ("v6e-32", ("--spot",), {"--accelerator-type": "v6e-32", "--runtime-version": "v2-alpha-tpuv6e", "--node-id": "first"}),
        ("v5e-16", (), {"--accelerator-type": "v5litepod-16", "--runtime-version": "v2-alpha-tpuv5-lite"}),
        ("v5p-64", ("--slices=2",), {"--runtime-version": "v2-alpha-tpuv5", "--node-count": "2", "--node-prefix": "first"}),
        ("v5p-384", (), {"--accelerator-type": "v5p-384"}),
        ("v4-128", ("--valid_until=6h", "--project=p", "--create_flags=--reserved --labels='a=b c'"), {"--labels": "a=b c"}),
    ],
)
def test_what_is_asked_for(desk, accelerator, flags, wanted):
    done = desk.run("create", f"--accelerator={accelerator}", *flags, **WHERE)
    assert done.returncode == 0, done.stderr
    (call,) = desk.calls()
    assert call[:5] == ["compute", "tpus", "queued-resources", "create", "first"]
    assert wanted.items() <= common.flags_of(call).items()
    assert ("--spot" in call) == ("--spot" in flags) and ("--reserved" in call) == ("v4" in accelerator)
    assert ("--node-id" in common.flags_of(call)) != ("--node-count" in common.flags_of(call))


@pytest.mark.parametrize(
    "complaint, advice",
    [
        ("ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'TPUV6EPerProjectPerZoneForTPUAPI' has been exceeded.", "--spot"),
        ("ERROR: (gcloud.x) PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before", "gcloud services enable"),
        ("ERROR: (gcloud.x) ALREADY_EXISTS: Resource 'first' already exists", "`delete`"),
        ("ERROR: (gcloud.x) INVALID_ARGUMENT: accelerator not available in zone", "accelerator-types list"),
        ("ERROR: (gcloud.x) You do not currently have an active account: gcloud auth login", "gcloud auth login"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(desk, complaint, advice):
    desk.answer("create", (1, "", f"{complaint}\nand more\n"))
    said = common.one_line(desk.run("create", "--accelerator=v6e-8", **WHERE), 1)
    assert complaint.removeprefix("ERROR: ") in said and advice in said


def test_waiting_shows_progress_and_ends_when_the_slice_is_there(desk):
    desk.states("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = desk.run("wait", "--poll=0", **WHERE)
    assert done.returncode == 0 and len(desk.calls()) == 4
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def test_a_long_wait_outlives_a_lost_connection(desk):
    fine, lost = (0, json.dumps({"state": {"state": "PROVISIONING"}}), ""), (1, "", "ERROR: network is unreachable\n")
    desk.answer("describe", fine, lost, lost, (0, json.dumps({"state": {"state": "ACTIVE"}}), ""))
    done = desk.run("wait", "--poll=0", **WHERE)
    assert done.returncode == 0 and done.stderr.count("trying again") == 2
    desk.answer("describe", lost)
    assert "network" in common.one_line(desk.run("wait", "--poll=0", **WHERE), 1)


@pytest.mark.parametrize("state, code, said", [("SUSPENDED", 42, "taken"), ("FAILED", 1, "no more capacity"), ("", 1, "`create`")])
def test_a_wait_in_vain_ends(desk, state, code, said):
    content = {"state": {"state": state, "failedData": {"error": {"message": "There is\nno more capacity"}}}}
    absent = (1, "", "ERROR: (gcloud.x) NOT_FOUND: Resource 'first' was not found\n")
    desk.answer("describe", (0, json.dumps(content), "") if state else absent)
    assert said in common.one_line(desk.run("wait", "--poll=0", **WHERE), code)


def test_setup_and_run_on_the_hosts(desk):
    """From the laptop's arguments to the command on a host, through a real shell on either side."""
    desk.furnish_host()
    assert desk.run("setup", **{**RUN, "BUCKET": ""}).returncode == 0
    copied, prepared = desk.calls()
    assert copied[3] == "scp" and copied[-2:] == ["--node=all", "--worker=all"] and copied[5] == "first:taxonomy.tar.gz"
    assert common.flags_of(prepared)["--worker"] == common.flags_of(prepared)["--node"] == "all"
    assert (desk.host / "taxonomy/taxonomy/train.py").read_text() == (common.ROOT / "taxonomy/train.py").read_text()
    assert (desk.host / "taxonomy/configs/quickstart.py").exists() and not list(desk.host.rglob("__pycache__"))
    assert desk.calls("uv")[-1][-2:] == ["--editable", ".[tpu]"]

    done = desk.run("run", "--", *NASTY, OVERRIDES=QUOTED, **RUN)
    assert done.returncode == 0, done.stderr
    assert ["restart", "--no-block", "taxonomy.service"] in desk.calls("systemctl")
    assert not (desk.folder / "argv.json").exists()  # that is systemd's
    service = (desk.folder / "root/etc/systemd/system/taxonomy.service").read_text()
    started = next(line.partition("=")[2] for line in service.splitlines() if line.startswith("ExecStart="))
    subprocess.run(started.split(), check=True, cwd="/", env={"HOME": str(desk.host), "PATH": "/usr/bin:/bin"})
    assert desk.trained() == [
        "-m",
        "taxonomy.train",
        "--config=configs/quickstart.py",
        "--workdir=/bucket/runs/a",
        "--config.model.mlp=moe(experts=8, top_k=2)",
        '--config.data.source=text(glob="/bucket/*.txt")',
        *NASTY,
    ]


def test_logs_stop_and_delete(desk):
    desk.furnish_host()
    (desk.host / "taxonomy").mkdir(exist_ok=True)
    common.copy_launch(desk.host / "taxonomy")
    for step, flags in (("logs", ("--worker=3",)), ("stop", ()), ("delete", ("--project=p",))):
        assert desk.run(step, *flags, **WHERE).returncode == 0
    logs, stop, delete = desk.calls()
    assert {"--worker=3", "--node=0"} <= set(logs) and {"--worker=all", "--node=all"} <= set(stop)
    assert desk.calls("journalctl") == [["--unit=taxonomy.service", "--output=cat", "--lines=200", "--follow"]]
    assert ["stop", "taxonomy.service"] in desk.calls("systemctl")
    assert delete[3:] == ["delete", "first", "--zone=us-east5-b", "--project=p", "--force", "--quiet"]


def test_ssh_that_fails(desk):
    desk.answer("ssh", (255, "", "ERROR: (gcloud.x) [/usr/bin/ssh] exited with return code [255].\n"))
    assert "--tunnel-through-iap" in common.one_line(desk.run("run", **RUN), 1)
    desk.answer("ssh", (1, "", 'ERROR: (gcloud.x) SSH Key is not present in the SSH agent. Please run "ssh-add x"\n'))
    assert "ssh-add ~/.ssh/google_compute_engine" in common.one_line(desk.run("run", **RUN), 1)
    desk.run("run", "--ssh_flags=--tunnel-through-iap", **RUN)
    assert desk.calls()[-1][-1] == "--tunnel-through-iap"


HOST = "taxonomy-host={} LoadState={} ActiveState={} SubState={} ExecMainStatus={} NRestarts=2\n"


@pytest.mark.parametrize(
    "hosts, code, said",
    [
        ([("loaded", "active", "running", 0)] * 2, 0, "runs, started again 2 times"),
        ([("loaded", "inactive", "dead", 0)] * 2, 0, "done"),
        ([("loaded", "active", "running", 0), ("loaded", "failed", "failed", 2)], 2, "bad input"),
        ([("loaded", "activating", "auto-restart", 134)] * 2, 0, "hung"),
        ([("loaded", "failed", "failed", 42)] * 2, 42, "stopped and saved"),
        ([("not-found", "inactive", "dead", 0)], 0, "not started"),
    ],
)
def test_status_is_the_runs(desk, hosts, code, said):
    desk.states("ACTIVE")
    desk.answer("ssh", (0, "".join(HOST.format(f"w-{n}", *host) for n, host in enumerate(hosts)), ""))
    done = desk.run("status", **WHERE)
    assert done.returncode == code, done.stderr
    assert said in done.stdout and done.stdout.count("w-") == len(hosts)


def test_status_of_a_slice_that_is_not_there(desk):
    desk.states("SUSPENDED")
    assert desk.run("status", **WHERE).returncode == 42
    desk.states("WAITING_FOR_RESOURCES")
    assert desk.run("status", **WHERE).returncode == 0
    assert desk.verbs() == ["describe"] * 2


RUNS, ENDED = HOST.format("w-0", "loaded", "active", "running", 0), HOST.format("w-0", "loaded", "inactive", "dead", 0)


def test_a_slice_that_is_taken_is_asked_for_again(desk):
    """create, wait, setup, run; taken while it runs; delete, create, wait, setup, run; done."""
    absent = (1, "", "ERROR: (gcloud.x) NOT_FOUND: no such\n")
    states = ("PROVISIONING", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE", "ACTIVE")
    desk.answer("describe", absent, *((0, json.dumps({"state": {"state": state}}), "") for state in states))
    desk.answer("scp", (0, "", ""))
    quiet = (0, "", "")
    desk.answer("ssh", quiet, quiet, (0, RUNS, ""), quiet, quiet, (0, ENDED, ""))
    done = desk.run("up", "--spot", "--watch", "--poll=0", **RUN)
    assert done.returncode == 0, done.stderr
    begin = ["create", "describe", "describe", "scp", "ssh", "ssh"]
    watch, look = ["describe", "ssh"], ["describe"]
    assert desk.verbs() == ["describe", *begin, *watch, *look, *look, "delete", "create", "describe", "scp", "ssh", "ssh", *watch]
    assert all("--spot" in call for call in desk.calls() if "create" in call)
    assert "taken" in done.stderr and "ended with 0: done" in done.stderr


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_another_try_cannot_mend_is_not_tried_again(desk, code):
    desk.states("ACTIVE")
    desk.answer("ssh", (0, RUNS, ""), (0, RUNS, ""), (0, HOST.format("w-1", "loaded", "failed", "failed", code) + RUNS, ""))
    done = desk.run("up", "--watch", "--poll=0", **RUN)
    assert done.returncode == code and "create" not in desk.verbs() and "scp" not in desk.verbs()


def test_a_dry_run_runs_nothing(desk):
    done = desk.run("up", "--spot", "--dry_run", "--watch", "--", *NASTY, OVERRIDES=QUOTED, **RUN)
    assert done.returncode == 0 and desk.calls() == []
    printed = [line.split()[4] for line in done.stdout.splitlines()]
    assert printed == ["create", "describe", "scp", "ssh", "ssh"]
    # What is printed can be pasted into a shell.
    for verb in printed:
        desk.answer(verb, (0, "", ""))
    subprocess.run(["bash", "-c", done.stdout], env={"PATH": f"{desk.bin}:/usr/bin:/bin"}, check=True)
    assert desk.verbs() == printed
    given = dict(word.split("=", 1) for word in shlex.split(common.flags_of(desk.calls()[-1])["--command"]) if "=" in word)
    assert given["CONFIG"] == RUN["CONFIG"] and shlex.split(given["OVERRIDES"])[-len(NASTY) :] == list(NASTY)


@pytest.mark.parametrize(
    "words, variables, said",
    [
        (("create",), {"ACCELERATOR": "v9e-8"}, "unknown generation 'v9e' of 'v9e-8'; did you mean"),
        (("create",), {"ACCELERATOR": "v6e-33"}, "such as v6e-1, v6e-4"),
        (("create",), {"ACCELERATOR": "tpu7x-8"}, "GKE alone"),
        (("create",), {"ACCELERATOR": "v6e-8", "ZONE": ""}, "export ZONE"),
        (("create", "--zoen=a"), {}, "--zoen=a"),
        (("create", "--", "--x"), {"ACCELERATOR": "v6e-8"}, "takes no flags after --"),
        (("begin",), {}, "'begin'"),
        (("run",), RUN | {"CONFIG": ""}, "CONFIG: required"),
        (("run",), RUN | {"WORKDIR": "gs://b/runs"}, "mount the bucket"),
        (("run",), RUN | {"WORKDIR": "runs/a"}, "relative"),
        (("run",), RUN | {"BUCKET": ""}, "BUCKET: required"),
        (("run",), RUN | {"OVERRIDES": "--config.name='a"}, "OVERRIDES: No closing quotation"),
        (("run",), RUN | {"OVERRIDES": "--config.name=a b"}, "'b' is no flag"),
        (("run", "--ssh_flags='"), RUN, "--ssh_flags"),
        (("wait",), {"TPU_NAME": "First One"}, "small letters"),
    ],
)
def test_bad_input_is_told_before_anything_is_done(desk, words, variables, said):
    assert said in common.one_line(desk.run(*words, **(WHERE | variables)), 2)
    assert desk.calls() == []


def test_without_gcloud(desk):
    (desk.bin / "gcloud").unlink()
    done = desk.run("wait", **WHERE, PATH=str(desk.bin))
    assert "install it" in common.one_line(done, 1)
