"""Scaling laws, from one file to an answer with error bars.

    python -m taxonomy.sweep plan --study=configs/sweeps/smoke.py     cells, cost, what is likely to be wrong; nothing is trained
    python -m taxonomy.sweep run --study=configs/sweeps/smoke.py --workdir=W     as often and on as many hosts as there are
    python -m taxonomy.sweep status --workdir=W --watch               how far all of them are
    python -m taxonomy.sweep check --workdir=W                        freezes a prediction, trains what is held out, compares
    python -m taxonomy.sweep import runs.csv --workdir=W --columns="params=Model Size,flops=Training FLOP,loss=loss" \\
        --tokens="flops/(6*params)"                              a table of anybody's runs becomes results.jsonl
    python -m taxonomy.sweep fit --workdir=W --method=parametric      parameters, intervals, what was left out and why
    python -m taxonomy.sweep plot --workdir=W                         figures and one report.html
    python -m taxonomy.sweep ask --workdir=W --flops=1e21             what to train, and the loss to expect
    python -m taxonomy.sweep coordinates --config=gpt2:tiny           whether activations keep their size as the model widens

`fit` keeps what it found in the workdir, where `plot` and `ask` read it. --json prints one object.
"""

import fnmatch
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from taxonomy import cli, notation
from taxonomy.errors import UserError, nearest

_EXPRESSIONS = ("params", "tokens", "flops", "unique_tokens", "batch_tokens")
_ASKED = ("flops", "params", "tokens")
_LEFT_OUT = ("drop_highest_loss", "min_tokens_per_param", "drop")
_FITTED = ("method", "delta", "bootstraps", "seed", "count", "count_flops", "start", "fixed", "budgets", "holdout")
_WATCH_SECONDS = 3.0
# The flags of each command, besides --workdir and --json.
_READ = {
    "plan": ("study", "chips", "mfu"),
    "run": ("study", "only", "retry", "lease"),
    "status": ("watch", "lease"),
    "check": ("method", "bootstraps", "seed", "freeze", "lease"),
    "import": (*_EXPRESSIONS, "columns", "where", *_LEFT_OUT),
    "fit": ("where", *_LEFT_OUT, *_FITTED),
    "plot": (),
    "ask": (*_ASKED, "method", "chips", "hours", "mfu", "family"),
    "coordinates": ("widths", "steps", "learning_rate", "seeds", "wider_heads"),
}


def define_flags() -> None:
    """Declares this command's flags."""
    for name in _EXPRESSIONS:
        asked = f" ask: a number of {name}." if name in _ASKED else ""
        flags.DEFINE_string(name, None, f"import: arithmetic over columns that gives {name}.{asked}")
    flags.DEFINE_string("columns", "", 'import: which column is what, "params=Model Size,loss=loss"; id names runs.')
    flags.DEFINE_multi_string("where", [], 'import, fit: rows to take, "column=value" or "column=this|that".')
    flags.DEFINE_integer("drop_highest_loss", 0, "import, fit: leave out this many runs of the highest loss.", lower_bound=0)
    flags.DEFINE_float(
        "min_tokens_per_param", 0.0, "import, fit: leave out runs of fewer tokens for each parameter.", lower_bound=0
    )
    flags.DEFINE_list("drop", [], "import, fit: ids of runs to leave out.")
    flags.DEFINE_string(
        "study", None, "plan, run: the file of a study, or its name in configs/sweeps; without it that of --workdir."
    )
    flags.DEFINE_string("only", "*", "run: the cells of these ids, a pattern such as 1e18-*.")
    flags.DEFINE_bool("retry", False, "run: what failed before is run again.")
    flags.DEFINE_bool("watch", False, "status: again every few seconds, until all is done.")
    flags.DEFINE_bool("freeze", False, "check: freeze the prediction and train nothing.")
    flags.DEFINE_float(
        "lease", 120.0, "run, check, status: seconds without a sign of life after which a worker on another machine is dead.", 1
    )
    flags.DEFINE_string("method", None, "fit, ask, check: parametric (the default), isoflop, envelope, kaplan, overtraining, ...")
    flags.DEFINE_float("delta", None, "fit: where Huber's loss becomes linear; inf is least squares. By default the method's own.")
    flags.DEFINE_integer("bootstraps", 1000, "fit, check: resampled sets of runs.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "fit, check: of the resampling.")
    flags.DEFINE_string("count", "params", "fit: the count of parameters to take, such as params_body where results have it.")
    flags.DEFINE_string("count_flops", "flops", "fit: the count of FLOPs to take.")
    flags.DEFINE_string("start", None, 'fit: start from here alone, "A=400, B=400, E=1.7, alpha=0.3, beta=0.3".')
    flags.DEFINE_string("fixed", None, "fit: parameters that are known, for data_constrained A, B, E, alpha, beta.")
    flags.DEFINE_list("budgets", [], "fit: FLOPs of the curves of isoflop, each of runs within a quarter; found by gaps otherwise.")
    flags.DEFINE_list("holdout", [], "fit: ids of runs to predict and not to fit.")
    flags.DEFINE_string("chips", None, "plan, ask: what there is to train on, v5p-256 or h100-8; ask: together with --hours.")
    flags.DEFINE_float("hours", None, "ask: how long there is.", lower_bound=0)
    flags.DEFINE_float("mfu", 0.4, "plan, ask: the share of the chips' peak that is used.", lower_bound=0, upper_bound=1)
    flags.DEFINE_string("family", None, "ask: name the size of this family that is nearest, and the command to train it.")
    flags.DEFINE_list("widths", ["64", "128", "256", "512", "1024"], "coordinates: of the models, d_model each.")
    flags.DEFINE_integer("steps", 10, "coordinates: of training.", lower_bound=1)
    flags.DEFINE_float("learning_rate", None, "coordinates: of all steps; the peak of the schedule by default.")
    flags.DEFINE_integer("seeds", 3, "coordinates: trainings at each width, whose sizes are averaged.", lower_bound=1)
    flags.DEFINE_bool("wider_heads", False, "coordinates: widen heads instead of adding some.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv: list[str]) -> None:
    name, rest = (argv[1] if len(argv) > 1 else ""), argv[2:]
    if name not in COMMANDS:
        raise UserError(
            f"sweep: unknown command '{name}'{nearest(name, COMMANDS)}" if name else f"sweep: say one of {', '.join(COMMANDS)}"
        )
    for flag in sorted({flag for read in _READ.values() for flag in read}.difference(_READ[name])):
        if flags.FLAGS[flag].present:
            readers = ", ".join(f"sweep {command}" for command, read in _READ.items() if flag in read)
            raise UserError(f"--{flag}: sweep {name} does not read it (allowed: {readers})")
    COMMANDS[name](rest)


def _plan(rest: list[str]) -> None:
    _nothing_else("plan", rest)
    _without_accelerator()
    from taxonomy.scaling import fits, forecast, results, tables

    given, workdir = flags.FLAGS, cli.WORKDIR.value
    study, cells = _study()
    if given["mfu"].present and given.chips is None:
        raise UserError("--mfu: needs --chips")
    known = workdir is not None and results.exists(workdir)
    law, scatter = study.law, study.scatter
    if known and fits.kept(workdir, "parametric"):
        fit = fits.load(workdir, "parametric")
        law, scatter = fit["parameters"], fit["scatter"]
    speed = _speed(results.read(workdir).rows if known else ())
    corpus = study.corpus_tokens or forecast.corpus(cells)
    said = {
        "intervals": forecast.intervals(study, cells, law, scatter),
        "warnings": forecast.warnings(study, cells, corpus, law),
    }
    if given.json:
        minutes = {cell.id: speed.minutes(cell) if speed else None for cell in cells}
        told = ("id", "values", "counts", "budget", "holdout", "left_out")
        shown = [{name: getattr(cell, name) for name in told} | {"minutes": minutes[cell.id]} for cell in cells]
        print(json.dumps({"cells": shown, "corpus_tokens": corpus, **said}))
        return
    print(tables.plan(cells, speed, corpus, said))


def _speed(rows: Any) -> Any:
    from taxonomy.scaling import accelerators, forecast

    given = flags.FLAGS
    if given.chips is not None:
        share = _positive("--mfu", given.mfu)
        return forecast.Speed(accelerators.slice_flops(given.chips) * share, f"{given.chips} at {share:.0%} of its peak")
    return forecast.measured(rows) or forecast.guessed()


def _run(rest: list[str]) -> None:
    _nothing_else("run", rest)
    from taxonomy.scaling import cells as cells_lib
    from taxonomy.scaling import runner, states, tables
    from taxonomy.training import process

    given, workdir = flags.FLAGS, cli.workdir()
    study, cells = _study()
    if given.study is not None:
        cells_lib.save(workdir, study, cells)
    wanted = [cell.id for cell in cells if fnmatch.fnmatch(cell.id, given.only)]
    if not wanted:
        raise UserError(f"--only: no cell's id is like '{given.only}'{nearest(given.only, (cell.id for cell in cells))}")
    process.tune_allocator()
    if given.retry:
        runner.forget_failed(workdir, cells)
    runner.run(workdir, study, cells, given.lease, lambda cell: cell.id in wanted)
    found = [state for state in states.states(workdir, cells, given.lease) if state.cell.id in wanted]
    summary = states.summary(found)
    print(json.dumps(summary) if given.json else tables.status(found, summary))
    failed = [state for state in found if state.what == cells_lib.FAILED]
    if failed:
        said = "; sweep run --retry runs them again" if len(failed) < len(wanted) else ""
        raise UserError(f"sweep run: {len(failed)} of {len(wanted)} cells failed, {failed[0].cell.id} {failed[0].said}{said}")


def _status(rest: list[str]) -> None:
    _nothing_else("status", rest)
    from taxonomy.scaling import cells as cells_lib
    from taxonomy.scaling import states, tables

    given, workdir = flags.FLAGS, cli.workdir()
    while True:
        _, cells = cells_lib.read(workdir)
        found = states.states(workdir, cells, given.lease)
        summary = states.summary(found)
        if given.json:
            told = ("what", "step", "loss", "seconds", "worker", "said")
            shown = [{"id": state.cell.id, **{name: getattr(state, name) for name in told}} for state in found]
            print(json.dumps(summary | {"states": shown}), flush=True)
        else:
            print(("\x1b[H\x1b[J" if given.watch and sys.stdout.isatty() else "") + tables.status(found, summary), flush=True)
        if not given.watch or not summary["open"]:
            return
        time.sleep(_WATCH_SECONDS)


def _check(rest: list[str]) -> None:
    _nothing_else("check", rest)
    from taxonomy.scaling import cells as cells_lib
    from taxonomy.scaling import fits, holdout, tables

    given, workdir = flags.FLAGS, cli.workdir()
    study, cells = cells_lib.read(workdir)
    options = fits.Options(bootstraps=given.bootstraps, seed=given.seed, sensitivity=False)
    prediction = holdout.freeze(workdir, cells, options, given.method or "parametric")
    if not given.json:
        print(tables.frozen(prediction, f"{workdir}/{holdout.FILE}"), flush=True)
    if given.freeze:
        if given.json:
            print(json.dumps(prediction))
        return
    found = holdout.check(workdir, study, cells, prediction, given.lease)
    print(json.dumps(found) if given.json else tables.verdict(found))


def _study() -> tuple[Any, list[Any]]:
    """The study of --study and its cells, or what the workdir holds."""
    from taxonomy.scaling import cells as cells_lib

    if flags.FLAGS.study is None:
        if cli.WORKDIR.value is None:
            raise UserError("--study: required, for example --study=configs/sweeps/smoke.py")
        return cells_lib.read(cli.WORKDIR.value)
    from taxonomy.scaling import resolve, study

    found = study.load(flags.FLAGS.study)
    return found, resolve.resolve(found)


def _without_accelerator() -> None:
    """Shapes need no accelerator, and one may be busy with a run."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _import(paths: list[str]) -> None:
    from taxonomy.scaling import results, table

    given = flags.FLAGS
    if len(paths) != 1:
        raise UserError(f"sweep import: expected one CSV file, got {len(paths)}")
    expressions = {name: given[name].value for name in _EXPRESSIONS if given[name].value is not None}
    runs = _dropped(table.load(paths[0], given.columns, expressions, given.where))
    path = results.write(cli.workdir(), runs)
    if given.json:
        print(json.dumps({"results": str(path), "runs": len(runs), "excluded": runs.reasons()}))
        return
    print(f"{path}: {len(runs)} runs, {len(runs.excluded)} left out")
    _print_excluded(runs.reasons())


def _fit(rest: list[str]) -> None:
    from taxonomy.scaling import cells, fits, shown

    _nothing_else("fit", rest)
    given, workdir = flags.FLAGS, cli.workdir()
    options = fits.Options(
        bootstraps=given.bootstraps,
        seed=given.seed,
        delta=_positive("--delta", given.delta),
        params=given.count,
        flops=given.count_flops,
        start=_numbers("--start", given.start),
        fixed=_numbers("--fixed", given.fixed),
        budgets=[_number("--budgets", text) for text in given.budgets] or None,
        holdout=tuple(given.holdout),
    )
    result = fits.fit(_dropped(cells.runs(workdir), given.where), given.method or "parametric", options)
    path = fits.save(workdir, result)
    del result["samples"]
    print(json.dumps(result) if given.json else shown.fit(result, str(path)))


def _plot(rest: list[str]) -> None:
    from taxonomy.scaling import cells, figures, fits, report

    _nothing_else("plot", rest)
    workdir = cli.workdir()
    runs = cells.runs(workdir)
    kept = {method: fits.load(workdir, method) for method in fits.METHODS if fits.kept(workdir, method)}
    study = cells.read(workdir)[0] if cells.exists(workdir) else None
    if not kept and not (study and study.axes):
        raise UserError(f"--workdir: {workdir} has no fit; `sweep fit` makes one")
    written = figures.draw(workdir, runs, kept, study)
    path = report.write(workdir, runs, kept, written)
    if flags.FLAGS.json:
        print(json.dumps({"report": str(path), "figures": [str(one) for one in written]}))
        return
    print(f"{path}: {', '.join(kept) or 'variants'}")
    for one in written:
        print(f"  {one} (and .svg)")


def _ask(rest: list[str]) -> None:
    from taxonomy.scaling import accelerators, ask, fits, shown
    from taxonomy.scaling import cells as cells_lib

    _nothing_else("ask", rest)
    given, workdir = flags.FLAGS, cli.workdir()
    asked = {name: None if given[name].value is None else _number(f"--{name}", given[name].value) for name in _ASKED}
    if (given.chips is None) != (given.hours is None):
        raise UserError("--chips: needs --hours, and --hours needs --chips")
    if given["mfu"].present and given.chips is None:
        raise UserError("--mfu: needs --chips and --hours")
    if given.chips is not None:
        if asked["flops"] is not None:
            raise UserError("--chips: says how many FLOPs there are; leave --flops out")
        seconds = 3600 * _positive("--hours", given.hours)
        asked["flops"] = accelerators.slice_flops(given.chips) * _positive("--mfu", given.mfu) * seconds
    fit = fits.load(workdir, given.method or "parametric")
    answer = ask.ask(fit, **asked)
    answer["recipe"] = ask.recipe(answer, fits.load(workdir, "hyperparameters") if fits.kept(workdir, "hyperparameters") else None)
    if given.family is not None:
        _without_accelerator()
        answer["nearest"] = ask.nearest_config(answer, fit, given.family)
    if given.family is not None or cells_lib.exists(workdir):
        _without_accelerator()
        from taxonomy.scaling import ready

        answer["ready"] = ready.ready(workdir, answer, fit, given.family)
    print(json.dumps(answer) if given.json else shown.answer(answer))


def _coordinates(rest: list[str]) -> None:
    from taxonomy.scaling import coordinates

    _nothing_else("coordinates", rest)
    given, config = flags.FLAGS, cli.config()
    widths = [_whole("--widths", text) for text in given.widths]
    rate = _positive("--learning_rate", given.learning_rate)
    options = {"wider_heads": given.wider_heads, "seeds": given.seeds}
    found = coordinates.check(config, widths, given.steps, rate, **options, say=lambda line: print(line, file=sys.stderr))
    if cli.WORKDIR.value:
        from taxonomy.scaling import figures

        found["figure"] = str(figures.draw_coordinates(cli.WORKDIR.value, found))
    print(json.dumps(found) if given.json else coordinates.shown(found))


def _dropped(runs: Any, where: Sequence[str] = ()) -> Any:
    from taxonomy.scaling import results

    given = flags.FLAGS
    return results.exclude(runs, given.drop_highest_loss, given.min_tokens_per_param, given.drop, where)


def _print_excluded(reasons: list[dict[str, str]]) -> None:
    for one in reasons:
        print(f"  left out: {one['id']}: {one['reason']}")


def _positive(flag: str, value: Any) -> Any:
    """The number, or None as it is."""
    if value is not None and not value > 0:
        raise UserError(f"{flag}: expected a number greater than 0, got {value:g}")
    return value


def _numbers(flag: str, text: str | None) -> dict[str, float] | None:
    """ "A=1, B=2" as a dictionary."""
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=(.+)", part)
        if not match:
            raise UserError(f"{flag}: expected NAME=NUMBER, NAME=NUMBER, got {part.strip()!r}")
        found[match[1]] = _number(flag, match[2])
    return found


def _number(flag: str, text: str) -> float:
    """Arithmetic over numbers alone: 6*70e9*1.4e12."""
    return _positive(flag, float(notation.evaluate(notation.parse(text, flag), {}, text, flag)))


def _whole(flag: str, text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UserError(f"{flag}: expected a whole number of at least 1, got {text!r}")
    return int(text)


def _nothing_else(command: str, rest: list[str]) -> None:
    if rest:
        raise UserError(f"sweep {command}: unexpected argument '{rest[0]}'")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "plan": _plan,
    "run": _run,
    "status": _status,
    "check": _check,
    "import": _import,
    "fit": _fit,
    "plot": _plot,
    "ask": _ask,
    "coordinates": _coordinates,
}


if __name__ == "__main__":
    define_flags()
    cli.run(main)
