"""Evaluates the newest good checkpoint of a workdir on held-out text: python -m taxonomy.evaluate --workdir=runs/quickstart"""

import json

from absl import flags

from taxonomy import cli

_SPLIT = flags.DEFINE_enum("split", "validation", ["validation", "test"], "The held-out split.")
_TOKENS = flags.DEFINE_float("max_tokens", None, "Evaluate this many tokens only.")
_SOURCE = flags.DEFINE_string("source", None, "Other text, such as \"text(glob='*.txt')\".")
_MESH = flags.DEFINE_string("mesh", None, "Another mesh than the run's, such as data:-1.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv: list[str]) -> None:
    workdir = cli.workdir()
    import jax

    from taxonomy import config as config_lib
    from taxonomy.training import checkpoints, loop
    from taxonomy.training.parts import apart
    from taxonomy.training.plan import make_plan

    config, params = checkpoints.restore_params(workdir)
    tokenizer = checkpoints.restore_tokenizer(workdir)
    config = config.copy_and_resolve_references().unlock()
    if _SOURCE.value:
        config_lib.assign(config, "data.source", _SOURCE.value)
    if _MESH.value is not None:
        config_lib.assign(config, "mesh", _MESH.value)
    plan = make_plan(config, jax.device_count())
    prepared = loop.prepare_data(config, say=lambda line: None, tokenizer=tokenizer, splits=(_SPLIT.value,))
    trainer = loop.make_trainer(plan)
    params = jax.device_put(params, trainer.shardings.params)
    result = loop.evaluate(trainer, params, prepared, plan, _TOKENS.value, split=_SPLIT.value)
    if _JSON.value:
        print(json.dumps({"workdir": workdir, "split": _SPLIT.value, **result}))
        return
    print(f"{workdir}, {_SPLIT.value} split, {result['tokens']:,} tokens")
    for key in (key for key in ("loss", "perplexity", "accuracy", "bits_per_byte") if key in result):
        print(f"  {key.replace('_', ' '):14} {result[key]:.4f}")
    for part, figures in apart(result).items():
        print(f"  {part:14} " + "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items()))


if __name__ == "__main__":
    cli.run(main)
