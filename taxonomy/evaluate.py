"""Evaluates the newest good checkpoint of a workdir on held-out text: python -m taxonomy.evaluate --workdir=runs/quickstart

Of pairs it also scores greedy answers: --metrics="accuracy, bleu", by default those of the config.
"""

import json

from absl import flags

from taxonomy import cli

_SPLIT = flags.DEFINE_enum("split", "validation", ["validation", "test"], "The held-out split.")
_TOKENS = flags.DEFINE_float("max_tokens", None, "Evaluate this many tokens only.")
_SOURCE = flags.DEFINE_string("source", None, "Other text, such as \"text(glob='*.txt')\".")
_METRICS = flags.DEFINE_string("metrics", None, 'Metrics of greedy answers to held-out pairs, such as "exact_match, f1, rouge".')
_PAIRS = flags.DEFINE_integer("pairs", None, "Answer this many held-out pairs.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", None, "Another mesh than the run's, such as data:-1.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv: list[str]) -> None:
    workdir = cli.workdir()
    import jax

    from taxonomy import config as config_lib
    from taxonomy.inference import answers
    from taxonomy.training import checkpoints, loop
    from taxonomy.training.parts import apart
    from taxonomy.training.plan import make_plan

    config, params = checkpoints.restore_params(workdir)
    tokenizer = checkpoints.restore_tokenizer(workdir)
    config = config.copy_and_resolve_references().unlock()
    given = {
        "data.source": _SOURCE.value,
        "mesh": _MESH.value,
        "evaluation.metrics": _METRICS.value and tuple(m.strip() for m in config_lib.split(_METRICS.value)),
        "evaluation.pairs": _PAIRS.value,
    }
    for key, value in given.items():
        if value is not None:
            config_lib.assign(config, key, value)
    plan = make_plan(config, jax.device_count())
    prepared = loop.prepare_data(config, say=lambda line: None, tokenizer=tokenizer, splits=(_SPLIT.value,))
    trainer = loop.make_trainer(plan)
    params = jax.device_put(params, trainer.shardings.params)
    result = loop.evaluate(trainer, params, prepared, plan, _TOKENS.value, split=_SPLIT.value)
    if config.evaluation.metrics:
        said = answers.answer(plan, params, prepared, config.evaluation.pairs, _SPLIT.value)
        result |= {"pairs": len(said), "scores": answers.scores(config.evaluation.metrics, said)}
    if _JSON.value:
        print(json.dumps({"workdir": workdir, "split": _SPLIT.value, **result}))
        return
    print(f"{workdir}, {_SPLIT.value} split, {result['tokens']:,} tokens")
    for key in (key for key in result if key not in ("tokens", "pairs", "scores") and "/" not in key):
        print(f"  {key.replace('_', ' '):18} {result[key]:.4f}")
    for part, figures in apart(result).items():
        print(f"  {part:14} " + "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items()))
    if "scores" in result:
        print(f"greedy answers to {result['pairs']:,} pairs")
        for name, value in result["scores"].items():
            print(f"  {name:30} {value:.4f}")


if __name__ == "__main__":
    cli.run(main)
