"""Cloud TPU VMs by queued resources, from any machine with gcloud and Python's standard library.

    export TPU_NAME=first ZONE=us-east5-b ACCELERATOR=v6e-32 BUCKET=my-bucket
    export CONFIG=configs/llama.py:2-7b WORKDIR=/bucket/runs/first OVERRIDES="--config.mesh=fsdp:-1"
    python launch/tpu_vm.py create --spot

create   asks for a slice, or several with --slices       logs     follows what worker 0 prints (--worker=3, --worker=all)
wait     until it is there                                status   of the slice and of the run on every host
setup    copies this checkout to all hosts, installs it   stop     ends the run; it saves first, and `run` goes on
run      starts or goes on with the run, on all hosts     delete   the slice, which ends its costs
up       all of create, wait, setup and run that is still to be done; --watch stays and does so again when the slice is taken

What stands in the environment may be a flag instead. What follows `--` is added to OVERRIDES. --dry_run prints the gcloud commands.
Exit codes: those of the run where it has ended (status, up --watch), 42 where the slice was taken, 2 for bad input, 1 otherwise.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping

import gcloud
import parameters
import slices
import start
from parameters import LaunchError

STEPS = ("create", "wait", "setup", "run", "logs", "status", "stop", "delete", "up")
ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = ("setup.py", "pyproject.toml", "taxonomy", "configs", "launch")
ARCHIVE = "taxonomy.tar.gz"
ACTIVE, ABSENT = "ACTIVE", "ABSENT"
TAKEN = ("SUSPENDING", "SUSPENDED")
LOST = 42  # the code of a run that was stopped and can go on
FINAL = {
    0: "done",
    2: "bad input; correct it, then `run`",
    3: "diverged; the last good checkpoint is kept",
    4: "no usable checkpoint in the workdir",
    42: "stopped and saved; `run` goes on",
    134: "hung",
}
NOT_AGAIN = (0, 2, 3, 4)  # RestartPreventExitStatus of host.sh, and 0
HOST = re.compile(r"taxonomy-host=(\S+)((?: \w+=\S*)+)")
PROGRESS_SECONDS = 60
PATIENCE = 5  # times in a row that the hosts of an active slice may be out of reach


class Tpu:
    """One queued resource and the run on its hosts."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.gcloud = gcloud.Gcloud(args.dry_run)
        self.connected = False
        self.where = [f"--zone={args.zone}", *([f"--project={args.project}"] if args.project else [])]

    def call(self, verb: str, *flags: str) -> tuple[str, ...]:
        return ("compute", "tpus", "queued-resources", verb, self.args.name, *self.where, *flags)

    def create(self) -> None:
        args = self.args
        asked = slices.parse(args.accelerator)
        runtime = args.runtime_version or asked.generation.runtime
        if not runtime:
            raise LaunchError(f"--accelerator: {asked.name} is had from GKE alone; see launch/jobset.py")
        several = [f"--node-count={args.slices}", f"--node-prefix={args.name}"]
        flags = [
            *(several if args.slices > 1 else [f"--node-id={args.name}"]),
            f"--accelerator-type={asked.name}",
            f"--runtime-version={runtime}",
            *(["--spot"] if args.spot else []),
            *([f"--valid-until-duration={args.valid_until}"] if args.valid_until else []),
            *([f"--service-account={args.service_account}"] if args.service_account else []),
            *args.create_flags,
        ]
        self.say(
            f"asking for {args.slices} x {asked.name} ({asked.hosts} hosts of {asked.chips_per_host} chips){' as spot' * args.spot}"
        )
        self.gcloud.read("create", *self.call("create", *flags))

    def state(self) -> tuple[str, str]:
        """The state of the queued resource, ABSENT where there is none, and why."""
        try:
            printed = self.gcloud.read("status", *self.call("describe", "--format=json(state)"))
        except LaunchError as e:
            if re.search(gcloud.NOT_FOUND, str(e)):
                return ABSENT, ""
            raise
        if self.args.dry_run:
            return ACTIVE, ""
        state = (json.loads(printed) or {}).get("state") or {}
        why = state.get("failedData", {}).get("error", {}).get("message", "")
        return state.get("state", "STATE_UNSPECIFIED"), " ".join(why.split())

    def steady_state(self) -> tuple[str, str]:
        """`state`, which after a first success may fail a few times in a row: a long wait outlives a lost connection."""
        for _ in range(PATIENCE - 1 if self.connected else 0):
            try:
                return self.state()
            except LaunchError as e:
                self.say(f"{e}; trying again")
                time.sleep(self.args.poll)
        found = self.state()
        self.connected = True
        return found

    def wait(self) -> None:
        """Until the slice is there. Raises LaunchError when it never will be."""
        began = shown = time.monotonic()
        before = ""
        while True:
            state, why = self.steady_state()
            now = time.monotonic()
            if state != before or now - shown >= PROGRESS_SECONDS:
                self.say(f"{state} after {int(now - began) // 60} min")
                before, shown = state, now
            if state == ACTIVE:
                return
            if state in TAKEN:
                raise LaunchError(f"{self.args.name} was taken ({state}); `up` asks for it again, `delete` removes it", LOST)
            if state == ABSENT:
                raise LaunchError(f"{self.args.name}: there is no such queued resource in {self.args.zone}; `create` makes it", 1)
            if state in ("FAILED", "DELETING"):
                reason = f": {why}" if why else ""
                raise LaunchError(f"{self.args.name} is {state}{reason}; `delete` it and try another zone, size or --spot", 1)
            time.sleep(self.args.poll)

    def setup(self) -> None:
        self.say("copying the checkout to all hosts and installing it; some minutes the first time")
        everywhere = ("--node=all", "--worker=all", *self.args.ssh_flags)
        with tempfile.TemporaryDirectory() as folder:
            archive = pathlib.Path(folder) / ARCHIVE
            if not self.args.dry_run:
                pack(archive)
            copy = ("compute", "tpus", "queued-resources", "scp", str(archive), f"{self.args.name}:{ARCHIVE}")
            self.gcloud.show("setup", *copy, *self.where, *everywhere)
        unpack = "mkdir -p taxonomy && rm -rf " + " ".join(f"taxonomy/{name}" for name in SHIPPED)
        unpack += f" && tar -xzf {ARCHIVE} -C taxonomy"
        self.on_hosts("setup", f"{unpack} && {host('prepare', 'tpu', self.args.bucket)}")

    def run(self) -> None:
        values = parameters.run_of(self.args)
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
        self.say("python -m taxonomy.train " + shlex.join(start.flags(values)))
        self.on_hosts("run", f"{given} {host('start')}")
        self.say("started; it goes on without this machine. `logs` shows it, `status` too")

    def logs(self) -> None:
        self.on_hosts("logs", host("logs", "--follow"), worker=self.args.worker, node="all" if self.args.worker == "all" else "0")

    def stop(self) -> None:
        self.on_hosts("stop", host("stop"))

    def delete(self) -> None:
        self.say("deleting")
        self.gcloud.read("delete", *self.call("delete", "--force", "--quiet"))
        self.say("deleted; what is in the bucket stays, and costs")

    def status(self) -> int:
        state, why = self.state()
        self.say(state + (f": {why}" if why else ""))
        if state in TAKEN:
            return LOST
        if state != ACTIVE:
            return 0 if state not in (ABSENT, "FAILED") else 1
        hosts = self.survey()
        for name, (words, _) in sorted(hosts.items()):
            print(f"  {name}  {words}")
        return outcome(hosts) or 0

    def survey(self) -> dict[str, tuple[str, int | None]]:
        """Of each host: what its run does in words, and the exit code once it has ended."""
        command = self.call("ssh", "--node=all", "--worker=all", f"--command={host('status')}", *self.args.ssh_flags)
        return hosts_in(self.gcloud.read("status", *command))

    def up(self) -> int:
        """Whatever is still to be done until the run runs; with --watch, until it ends."""
        while True:
            try:
                self._bring_up()
                if not self.args.watch:
                    return 0
                return self._watch()
            except LaunchError as e:
                # Whatever failed, failed because of that: the hosts went away in the middle of it.
                if not self.args.watch or (e.code != LOST and self.steady_state()[0] not in TAKEN):
                    raise
                self.say(f"the slice was taken ({e}); asking for another")
                time.sleep(self.args.poll)

    def _bring_up(self) -> None:
        parameters.run_of(self.args)
        state, _ = (ABSENT, "") if self.args.dry_run else self.state()
        if state in TAKEN:
            self.delete()
        if state in (ABSENT, *TAKEN):
            self.create()
        self.wait()
        if state == ACTIVE and any(code is None for _, code in self.survey().values()):
            self.say("runs already")
            return
        self.setup()
        self.run()

    def _watch(self) -> int:
        failures = 0
        while not self.args.dry_run:
            time.sleep(self.args.poll)
            state, _ = self.steady_state()
            if state in (*TAKEN, ABSENT):
                raise LaunchError(state, LOST)
            try:
                code, failures = outcome(self.survey()), 0
            except LaunchError:
                failures += 1
                if failures >= PATIENCE:
                    raise
                continue
            if code is not None:
                self.say(f"ended with {code}: {FINAL.get(code, 'see `logs`')}")
                return code
        return 0

    def on_hosts(self, step: str, command: str, worker: str = "all", node: str = "all") -> None:
        flags = (f"--node={node}", f"--worker={worker}", f"--command={command}", *self.args.ssh_flags)
        self.gcloud.show(step, *self.call("ssh", *flags))

    def say(self, words: str) -> None:
        print(f"{self.args.name}: {words}", file=sys.stderr, flush=True)


def host(*words: str) -> str:
    """The command line that does something on a host."""
    return shlex.join(["bash", "taxonomy/launch/host.sh", *words])


def hosts_in(printed: str) -> dict[str, tuple[str, int | None]]:
    """What `host.sh status` printed on each host, in words, with the exit code of a run that has ended."""
    found = {}
    for name, properties in HOST.findall(printed):
        unit = dict(word.split("=", 1) for word in properties.split())
        code, again = int(unit.get("ExecMainStatus") or 0), unit.get("NRestarts", "0")
        meaning = f"{code}: {FINAL[code]}" if code in FINAL else str(code)
        if unit.get("LoadState") != "loaded":
            found[name] = "not started; `run` starts it", 0
        elif unit.get("ActiveState") == "active":
            found[name] = f"runs, started again {again} times", None
        elif unit.get("SubState") == "auto-restart":
            found[name] = f"starts again, {again} times so far; ended with {meaning}", None
        elif unit.get("ActiveState") in ("activating", "deactivating"):
            found[name] = unit["ActiveState"], None
        else:
            found[name] = f"ended with {meaning}", code
    return found


def outcome(hosts: Mapping[str, tuple[str, int | None]]) -> int | None:
    """The exit code of a run: one that no other try can mend, or when all hosts have ended the greatest; None before."""
    codes = [code for _, code in hosts.values()]
    hopeless = [code for code in codes if code and code in NOT_AGAIN]
    if hopeless:
        return min(hopeless)
    return None if None in codes or not codes else max(codes)


def pack(archive: pathlib.Path) -> None:
    """What the hosts need of this checkout, as it is now."""
    with tarfile.open(archive, "w:gz", compresslevel=3) as packed:
        for name in SHIPPED:
            packed.add(ROOT / name, name, filter=lambda entry: None if "__pycache__" in entry.name else entry)


def parse(argv: list[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """The arguments, from the environment where no flag is given. Raises LaunchError."""
    parser = parameters.Parser("tpu_vm.py", __doc__, environment)
    parser.add_argument("step", choices=STEPS)
    parser.add("name", "of the queued resource", "TPU_NAME")
    parser.add("zone", "such as us-east5-b", "ZONE")
    parser.add("project", "gcloud's own where none is given", "PROJECT")
    parser.add_run()
    parser.add("valid_until", "give the request up after this long, such as 6h")
    parser.add("runtime_version", "another system image than the generation's own")
    parser.add("service_account", "whose rights the hosts have")
    parser.add("create_flags", "further flags of gcloud's create, such as '--reserved --network=mine'")
    parser.add("ssh_flags", "further flags of gcloud's ssh and scp, such as --tunnel-through-iap")
    parser.add("worker", "whose logs: a number or all", default="0")
    parser.add("poll", "seconds between two looks", "POLL", default="20", type=float)
    parser.add_argument("--watch", action="store_true", help="of up: stay until the run has ended")
    parser.add_argument("--dry_run", action="store_true", help="print the gcloud commands and run none")
    args = parser.read(argv)
    for flag in ("create_flags", "ssh_flags"):
        try:
            setattr(args, flag, shlex.split(getattr(args, flag)))
        except ValueError as e:
            raise LaunchError(f"--{flag}: {e} in {getattr(args, flag)!r}") from None
    if args.rest and args.step not in ("run", "up"):
        raise LaunchError(f"{args.step} takes no flags after --; run and up do")
    parameters.required(args, name="TPU_NAME", zone="ZONE")
    if args.step in ("create", "up"):
        parameters.required(args, accelerator="ACCELERATOR")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", args.name):
        raise LaunchError(f"--name: expected small letters, digits and dashes, got {args.name!r}")
    return args


def main() -> None:
    try:
        args = parse(sys.argv[1:], os.environ)
        sys.exit(getattr(Tpu(args), args.step)())
    except LaunchError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.code)
    except KeyboardInterrupt:
        print("interrupted; what was started goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
