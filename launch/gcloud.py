"""Runs gcloud, and says in one line what its failures mean and what to do. Python's standard library only."""

import re
import shlex
import subprocess
import sys

from parameters import LaunchError

NOT_FOUND = r"NOT_FOUND|not found"
_ADVICE = (
    (
        r"RESOURCE_EXHAUSTED|[Qq]uota",
        "ask for quota (console, IAM & Admin, Quotas, service tpu.googleapis.com), or take another zone, a smaller slice, or "
        "--spot, which has a quota of its own",
    ),
    (r"no more capacity|[Ss]tockout|currently unavailable", "try another zone, a smaller slice, or wait with --valid_until"),
    (r"SERVICE_DISABLED|has not been used in project", "gcloud services enable tpu.googleapis.com"),
    (r"SSH agent|ssh-add", "ssh-add ~/.ssh/google_compute_engine"),
    (r"ALREADY_EXISTS|already exists", "`status` shows it, `delete` removes it"),
    (r"IAP|tunneling", "try again, or see gcloud compute ssh --troubleshoot"),
    (r"auth login|credentials|UNAUTHENTICATED", "gcloud auth login"),
    (r"PERMISSION_DENIED|does not have permission", "roles tpu.admin and iam.serviceAccountUser are needed; is --project right?"),
    (r"INVALID_ARGUMENT|not available in|location", "gcloud compute tpus accelerator-types list --zone=ZONE shows what there is"),
    (NOT_FOUND, "is --name, --zone or --project wrong? `create` makes it"),
)
_NO_CONNECTION = 255
_UNREACHABLE = "no connection by ssh; the network must let port 22 in, or --ssh_flags=--tunnel-through-iap goes around it"


class Gcloud:
    """Runs `gcloud ...`, or only prints what it would run."""

    def __init__(self, dry_run: bool = False):
        self.dry_run = dry_run

    def read(self, step: str, *words: str) -> str:
        """What a command prints. Raises LaunchError when it fails."""
        if self.dry_run:
            return self._print(words)
        done = self._start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        printed, complaints = done.communicate()
        if done.returncode:
            raise _explained(step, done.returncode, complaints)
        return printed

    def show(self, step: str, *words: str) -> None:
        """A command whose output is for the user's eyes as it comes. Raises LaunchError when it fails."""
        if self.dry_run:
            self._print(words)
            return
        with self._start(words, stderr=subprocess.PIPE) as running:
            said = []
            for line in running.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                said = [*said[-40:], line]
        if running.returncode:
            raise _explained(step, running.returncode, "".join(said))

    def _print(self, words: tuple[str, ...]) -> str:
        print("gcloud", shlex.join(words))
        return ""

    def _start(self, words: tuple[str, ...], **pipes) -> subprocess.Popen:
        try:
            return subprocess.Popen(["gcloud", *words], text=True, errors="replace", **pipes)
        except FileNotFoundError:
            raise LaunchError("no gcloud on PATH; install it (cloud.google.com/sdk), then gcloud auth login", 1) from None


def _explained(step: str, code: int, complaints: str) -> LaunchError:
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "error"))]
    said = (errors or lines or ["no message"])[-1][:300]
    if code == _NO_CONNECTION:
        return LaunchError(f"{step}: {_UNREACHABLE}", 1)
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, complaints)), "")
    if said.startswith("error:"):  # of a host, which has said what to do
        return LaunchError(f"{step}: {said.removeprefix('error: ')}", code)
    return LaunchError(f"{step}: {said}" + (f"; {advice}" if advice else ""), 1)
