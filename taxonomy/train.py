"""Trains an experiment, or goes on with it: python -m taxonomy.train --config=configs/quickstart.py --workdir=runs/quickstart

On several hosts the same command is started on each, see `taxonomy.distributed`.
"""

from absl import flags

from taxonomy import cli, distributed
from taxonomy.errors import UserError

_PRINT = flags.DEFINE_bool("print_config", False, "Print the resolved config as JSON and exit.")
_DRY = flags.DEFINE_bool("dry_run", False, "Check everything, describe the run, compile the step for abstract arrays, and exit.")
_INIT = flags.DEFINE_string("init_from", None, "Begin with the parameters and the tokenizer of this workdir, at step 0.")
distributed.define_flags()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --config=configs/quickstart.py")
    config = cli.config()
    if _PRINT.value:
        from taxonomy.config import to_json

        print(to_json(config))
        return
    if _DRY.value:
        from taxonomy.training.report import dry_run

        dry_run(config)
        return
    workdir = cli.workdir()
    distributed.join()
    from taxonomy.training import loop, process, report

    process.tune_allocator()
    report.finish(loop.train(config, workdir, _INIT.value))


if __name__ == "__main__":
    cli.run(main)
