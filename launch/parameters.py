"""What the launchers ask for alike: the hardware and the run, by flags or from the environment. Standard library only."""

import argparse
import shlex
from collections.abc import Mapping

import start


class LaunchError(Exception):
    """What went wrong and what to do, in one line. Launchers print it and exit with its code: 2 for bad input."""

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """Flags that may stand in the environment instead. What is wrong it says in one line."""

    def __init__(self, prog: str, description: str, environment: Mapping[str, str]):
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        self._environment = environment

    def add(self, flag: str, meaning: str, variable: str = "", default: str = "", **kwargs) -> None:
        """A flag, whose default is the variable's value."""
        named = f"{variable}: {meaning}" if variable else meaning
        self.add_argument(f"--{flag}", default=self._environment.get(variable, default), help=named, **kwargs)

    def add_run(self) -> None:
        """The parameters of every launcher."""
        self.add("accelerator", "the slice, such as v6e-32, v5p-64, v5litepod-16 or v4-128", "ACCELERATOR")
        self.add("config", "--config of taxonomy.train", "CONFIG")
        self.add("workdir", "--workdir of taxonomy.train, below /bucket", "WORKDIR")
        self.add("overrides", "further flags of taxonomy.train, quoted as in a shell; so is what follows --", "OVERRIDES")
        self.add("bucket", "a bucket that is mounted at /bucket on every host", "BUCKET")
        self.add_argument("--slices", type=int, default=1, help="how many slices, joined by the data centre's network")
        self.add_argument("--spot", action="store_true", help="cheaper, and may be taken at any time")

    def read(self, argv: list[str]) -> argparse.Namespace:
        """The arguments; `rest` is what follows --. Raises LaunchError."""
        cut = argv.index("--") if "--" in argv else len(argv)
        args = self.parse_args(argv[:cut])
        args.rest = argv[cut + 1 :]
        args.bucket = args.bucket.removeprefix("gs://").rstrip("/")
        if args.slices < 1:
            raise LaunchError(f"--slices: expected at least 1, got {args.slices}")
        return args

    def error(self, message: str):
        raise LaunchError(message)


def required(args: argparse.Namespace, **variables: str) -> None:
    """Raises LaunchError for the first of these flags that has no value, and names its variable."""
    for flag, variable in variables.items():
        if not getattr(args, flag):
            raise LaunchError(f"--{flag}: required; or export {variable}=...")


def run_of(args: argparse.Namespace) -> dict[str, str]:
    """CONFIG, WORKDIR and OVERRIDES of the run. Raises LaunchError for what cannot work on hosts that come and go."""
    overrides = " ".join(part for part in (args.overrides, shlex.join(args.rest)) if part)
    run = {"CONFIG": args.config, "WORKDIR": args.workdir, "OVERRIDES": overrides}
    try:
        start.flags(run)
    except ValueError as e:
        raise LaunchError(str(e)) from None
    if not args.workdir.startswith("/"):
        raise LaunchError(f"WORKDIR: {args.workdir!r} is relative; give a path that outlives the hosts, such as /bucket/runs/first")
    if f"{args.workdir}/".startswith("/bucket/") and not args.bucket:
        raise LaunchError("BUCKET: required for a WORKDIR below /bucket, which is where it is mounted")
    return run
