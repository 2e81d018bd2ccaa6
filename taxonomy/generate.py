"""Continues prompts with the newest good checkpoint of a run.

python -m taxonomy.generate --workdir=runs/x --prompt="def read_" --max_new_tokens=64 --sampler="top_p(0.9, temperature=0.8)"

Prints each prompt with what follows it. Without a prompt it writes a document from its start.
"""

import pathlib

from absl import flags

from taxonomy import cli, registry
from taxonomy.errors import UserError


def define_flags() -> None:
    """Declares this command's flags."""
    flags.DEFINE_multi_string("prompt", [], "Text to continue; may be given several times.")
    flags.DEFINE_multi_string("prompt_file", [], "File whose whole text is a prompt; may be given several times.")
    flags.DEFINE_integer("max_new_tokens", 64, "Tokens to add to each prompt at most.")
    flags.DEFINE_string("sampler", "greedy", "How tokens are drawn, such as top_p(0.9, temperature=0.8).")
    flags.DEFINE_integer("seed", 0, "Of the drawing; the same seed gives the same text.")


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"generate: unexpected argument '{argv[1]}'; prompts are given as --prompt=TEXT")
    workdir = cli.workdir()
    if given.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens: must be at least 1, got {given.max_new_tokens}")
    registry.create("sampler", given.sampler, "--sampler")
    prompts = [*given.prompt, *(_read(path) for path in given.prompt_file)] or [""]

    from taxonomy.inference import decode
    from taxonomy.training import checkpoints

    config, params = checkpoints.restore_params(workdir)
    texts = decode.generate(
        config,
        params,
        prompts,
        tokenizer=checkpoints.restore_tokenizer(workdir),
        max_new_tokens=given.max_new_tokens,
        sampler=given.sampler,
        seed=given.seed,
    )
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        print(f"--- {i + 1} of {len(prompts)}\n{prompt}{text}" if len(prompts) > 1 else f"{prompt}{text}")


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--prompt_file: cannot read {path} as text ({e})") from None


if __name__ == "__main__":
    define_flags()
    cli.run(main)
