"""Becomes `python -m taxonomy.train` with what the environment says. Every launcher ends here.

CONFIG      what to train: a path or a page and a size, such as configs/quickstart.py
WORKDIR     where the run lives: a directory that all hosts see and that outlives them
OVERRIDES   further flags, quoted as in a shell: --config.mesh=fsdp:-1 --config.model.mlp="moe(experts=8, top_k=2)"

Nothing stays between the launcher and the run: signals reach it, and its exit code is the launcher's. Standard library only.
"""

import os
import shlex
import sys
from collections.abc import Mapping


def flags(environment: Mapping[str, str]) -> list[str]:
    """The flags of the command. Raises ValueError, in one line."""
    config, workdir = environment.get("CONFIG", ""), environment.get("WORKDIR", "")
    if not config:
        raise ValueError("CONFIG: required, for example CONFIG=configs/quickstart.py")
    if not workdir:
        raise ValueError("WORKDIR: required, for example WORKDIR=/bucket/runs/quickstart")
    if "://" in workdir:
        raise ValueError(
            f"WORKDIR: {workdir!r} is no path; mount the bucket and give a directory in it, such as /bucket/runs/first"
        )
    try:
        overrides = shlex.split(environment.get("OVERRIDES", ""))
    except ValueError as e:
        raise ValueError(f"OVERRIDES: {e} in {environment['OVERRIDES']!r}") from None
    strange = next((word for word in overrides if not word.startswith("-")), None)
    if strange is not None:
        raise ValueError(f"OVERRIDES: {strange!r} is no flag; quote values with spaces, such as --config.mesh='fsdp:4, tensor:2'")
    return [f"--config={config}", f"--workdir={workdir}", *overrides]


def main() -> None:
    try:
        command = [sys.executable, "-m", "taxonomy.train", *flags(os.environ)]
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    print("+ python", shlex.join(command[1:]), flush=True)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
