"""Solves programming problems with the newest good checkpoint of a run: many programs are written, few are submitted.

python -m taxonomy.solve --workdir=runs/x --samples=64 --submissions=10 --sampler="temperature(0.25)" --sampler="temperature(0.8)"

Problems are functions of held-out modules of Python's standard library: signature and docstring are given, the body is wanted.
What the model writes runs in a sandbox. Prints a table: of each problem the samples, those that pass the examples, clusters of
those that behave alike, and whether a submission passed the hidden tests.
"""

import json

from absl import flags

from taxonomy import cli
from taxonomy.errors import UserError


def define_flags() -> None:
    """Declares this command's flags."""
    flags.DEFINE_integer("samples", 64, "Programs to write for each problem.", lower_bound=1)
    flags.DEFINE_integer("submissions", 10, "Programs to submit of each problem's at most.", lower_bound=1)
    flags.DEFINE_integer("problems", None, "Try this many problems only.", lower_bound=1)
    flags.DEFINE_multi_enum("split", ["test", "validation"], ["train", "validation", "test"], "Modules that problems are of.")
    flags.DEFINE_multi_string("sampler", ["temperature(0.25)", "temperature(0.8)"], "How tokens are drawn; several take turns.")
    flags.DEFINE_multi_string("prefix", [""], "Text before the prompt, such as tags; several take turns.")
    flags.DEFINE_integer("max_new_tokens", 96, "Tokens of a program at most.", lower_bound=1)
    flags.DEFINE_integer("workers", None, "Programs to run at a time; by default one a processor.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the drawing; the same seed gives the same programs.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"solve: unexpected argument '{argv[1]}'")
    workdir = cli.workdir()

    import jax

    from taxonomy.inference import conditions, sandbox, solve
    from taxonomy.inference.problems import library_problems
    from taxonomy.training import checkpoints
    from taxonomy.training.plan import make_plan

    chosen = conditions.conditions(given.sampler, given.prefix)
    config, params = checkpoints.restore_params(workdir)
    tokenizer = checkpoints.restore_tokenizer(workdir)
    walls = sandbox.protection()
    plan = make_plan(config, jax.device_count())
    options = {"max_new_tokens": given.max_new_tokens, "seed": given.seed}
    sampler = conditions.model_sampler(plan, params, tokenizer, chosen, **options)
    problems = library_problems(given.split, given.problems, given.workers)
    options = {"samples": given.samples, "submissions": given.submissions, "workers": given.workers, "seed": given.seed}
    attempts = solve.solve(problems, sampler, **options)
    result = solve.summary(attempts, given.submissions)
    if given.json:
        columns = ("passing", "clusters", "solved")
        each = [{"name": one.problem.name} | {name: getattr(one, name) for name in columns} for one in attempts]
        print(json.dumps({"workdir": workdir, "sandbox": walls, **result, "each": each}))
        return
    print(f"{workdir}; {sandbox.described()}")
    print(f"{'problem':40} {'samples':>8} {'pass examples':>14} {'clusters':>9} {'solved at ' + str(given.submissions):>13}")
    for one in attempts:
        solved = "yes" if one.solved else "no"
        print(f"{one.problem.name:40} {len(one.samples):8} {one.passing:14} {one.clusters:9} {solved:>13}")
    passing = result["verdicts"].get("passed", 0)
    print(f"{'all':40} {result['samples']:8} {passing:14} {result['clusters']:9} {result['solved']:>9} of {result['problems']}")
    print("programs: " + ", ".join(f"{kind} {count}" for kind, count in result["verdicts"].items()))
    print("estimates: " + ", ".join(f"{name} {value:.4f}" for name, value in result.items() if "@" in name))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
