"""Hugging Face checkpoints into a workdir, and out of one, with their tokenizers.

python -m taxonomy.convert --from_hf=DIR --workdir=W
python -m taxonomy.convert --workdir=W --to_hf=DIR
"""

import sys

from absl import flags

from taxonomy import cli
from taxonomy.errors import UserError

_FROM_HF = flags.DEFINE_string("from_hf", None, "The checkpoint to read: config.json and safetensors.")
_TO_HF = flags.DEFINE_string("to_hf", None, "A directory to write such a checkpoint to.")
_MODEL_TYPE = flags.DEFINE_string("model_type", None, "The family to write; by default the first that computes the same.")
_NET = flags.DEFINE_string("net", "model", "Which net to write: model, or the generator trained beside it.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of what is written: float32, bfloat16 or float16.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --from_hf=DIR --workdir=runs/imported")
    workdir = cli.workdir()
    if bool(_FROM_HF.value) == bool(_TO_HF.value):
        raise UserError("--from_hf, --to_hf: exactly one of them is required")
    from taxonomy.interop import engine, tokenizer_files
    from taxonomy.training import checkpoints

    if _FROM_HF.value:
        config, params = engine.from_hf(_FROM_HF.value)
        checkpoints.save_params(workdir, config, params)
        if problem := tokenizer_files.into_workdir(_FROM_HF.value, workdir, config.model.vocab):
            print(f"note: {workdir} has no tokenizer: {problem}", file=sys.stderr)
    else:
        config, params = checkpoints.restore_params(workdir)
        engine.to_hf(config, params, _TO_HF.value, _DTYPE.value, model_type=_MODEL_TYPE.value, net=_NET.value)
        tokenizer_files.out_of_workdir(workdir, _TO_HF.value)
    print(f"{_FROM_HF.value or workdir} -> {_TO_HF.value or workdir}")


if __name__ == "__main__":
    cli.run(main)
