"""What all commands share: `--config` flags, one-line errors, exit codes."""

import logging
import os
import sys
from collections.abc import Callable

import ml_collections
from absl import app, flags

from taxonomy import config as config_lib
from taxonomy import distributed
from taxonomy.errors import BAD_INPUT, UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Where a run lives, such as runs/quickstart.")

_given: dict[str, str] = {}


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a command. A UserError becomes its message on stderr and its exit code; so does a mistaken flag."""

    def guarded(argv):
        # Absl shows INFO; JAX would tell everyone without a TPU that there is none.
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
        try:
            main(argv)
        except UserError as e:
            print(f"error: {distributed.label()}{e}", file=sys.stderr)
            distributed.leave(e.exit_code)
            sys.exit(e.exit_code)
        except (Exception, KeyboardInterrupt) as e:
            if distributed.several():
                distributed.fail(e)
            raise

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Takes `--config=...` and `--config.a.b=...` out of the arguments; absl parses the rest."""
    rest, i = [], 0
    while i < len(argv):
        word = argv[i]
        name, equals, value = word.partition("=")
        if word == "--":
            rest += argv[i:]
            break
        if name in ("--config", "-config") or name.startswith(("--config.", "-config.")):
            if not equals:
                i += 1
                if i == len(argv):
                    print(f"error: {name} needs a value", file=sys.stderr)
                    sys.exit(BAD_INPUT)
                value = argv[i]
            _given[name.lstrip("-")] = value
        else:
            rest.append(word)
        i += 1
    try:
        return flags.FLAGS(rest)
    except flags.Error as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def config(required: bool = True) -> ml_collections.ConfigDict | None:
    """The experiment that `--config` names, with the `--config.a.b=value` overrides. Raises UserError."""
    overrides = {k.removeprefix("config."): v for k, v in _given.items() if k != "config"}
    if "config" not in _given:
        if required or overrides:
            raise UserError("--config: required, for example --config=configs/quickstart.py or --config=llama:tiny")
        return None
    loaded = config_lib.load_config(_given["config"], overrides)
    return _shortened(loaded) if "TAXONOMY_MAX_STEPS" in os.environ else loaded


def _shortened(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with at most TAXONOMY_MAX_STEPS steps, for a quick try of any run."""
    limit = os.environ["TAXONOMY_MAX_STEPS"]
    if not limit.isdigit() or int(limit) < 1:
        raise UserError(f"TAXONOMY_MAX_STEPS: expected a whole number of at least 1, got {limit!r}")
    config.train.steps = min(int(limit), config.train.steps or int(limit))
    config.train.tokens = None
    return config


def workdir() -> str:
    """The --workdir flag. Raises UserError when it is missing."""
    if not WORKDIR.value:
        raise UserError("--workdir: required, for example --workdir=runs/quickstart")
    return WORKDIR.value
