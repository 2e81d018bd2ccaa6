"""Continues prompts with the newest good checkpoint of a run.

python -m taxonomy.generate --workdir=runs/x --prompt="def read_" --max_new_tokens=64 --sampler="top_p(0.9, temperature=0.8)"

Prints each prompt with what follows it, or with --stream as it comes. Without a prompt it writes a document from its start.
With --speculate, a draft of the next tokens is checked at every step; the last line, on stderr, says how much of it was kept.
"""

import pathlib
import sys

from absl import flags

from taxonomy import cli, registry
from taxonomy.errors import UserError
from taxonomy.inference import constraints, sandbox, tools


def define_flags() -> None:
    """Declares this command's flags."""
    flags.DEFINE_multi_string("prompt", [], "Text to continue; may be given several times.")
    flags.DEFINE_multi_string("prompt_file", [], "File whose whole text is a prompt; may be given several times.")
    flags.DEFINE_multi_string("suffix", [], "Text behind a prompt, whose gap is to be filled; one for each prompt or none.")
    flags.DEFINE_integer("max_new_tokens", 64, "Tokens to add to each prompt at most.")
    flags.DEFINE_string("sampler", None, "How tokens are drawn, such as chain(repetition(1.2), top_p(0.9)); greedy by default.")
    flags.DEFINE_integer("seed", None, "Of the drawing; the same seed gives the same text; 0 by default.")
    flags.DEFINE_string("regex", None, "A regular expression that a text matches as a whole, unless it is cut off.")
    flags.DEFINE_string("json_schema", None, "A JSON schema, or a file with one, that a text fulfils unless it is cut off.")
    flags.DEFINE_multi_string("tool", [], "What a text may call: calculator (<<48/2=) or python (<python>...</python>).")
    flags.DEFINE_multi_string("stop", [], "A text ends before this; may be given several times.")
    flags.DEFINE_integer("n", 1, "Texts for each prompt.")
    flags.DEFINE_string("speculate", None, "Draft to check, such as prompt_lookup(tokens=4), draft('runs/small') or ahead.")
    flags.DEFINE_bool("stream", False, "Print the text while it is written; of one prompt.")
    flags.DEFINE_string(
        "cache", "exact", "What is kept of keys and values: exact, or int8, which takes about half of bfloat16's memory."
    )
    flags.DEFINE_string("domain", None, "Whose text, with an expert for each dataset of a mixture: its name or number.")
    flags.DEFINE_integer("beams", None, "Search for the likeliest texts with so many beams, instead of drawing.")
    flags.DEFINE_string("length_penalty", None, "Of --beams: what a text's log-probability is divided by; power(1.0) by default.")


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"generate: unexpected argument '{argv[1]}'; prompts are given as --prompt=TEXT")
    workdir = cli.workdir()
    for name in ("max_new_tokens", "n", "beams"):
        if given[name].value is not None and given[name].value < 1:
            raise UserError(f"--{name}: must be at least 1, got {given[name].value}")
    from taxonomy.layers.cache import check_kind

    check_kind(given.cache, "--cache")
    how = {"max_new_tokens": given.max_new_tokens, "cache": given.cache, "domain": given.domain}
    if given.beams is None:
        if given.length_penalty is not None:
            raise UserError("--length_penalty: only with --beams; texts that are drawn are not compared")
        registry.create("sampler", given.sampler or "greedy", "--sampler")
        if given.speculate is not None:
            draft = registry.create("draft", given.speculate, "--speculate")
            how |= {"speculate": draft, "report": lambda tally: print(f"--speculate: {tally}", file=sys.stderr)}
        how |= {"sampler": given.sampler or "greedy", "seed": given.seed or 0, "stop": given.stop, "n": given.n}
        how |= {"constraint": _constraint(given.regex, given.json_schema), "tools": [tools.find(name) for name in given.tool]}
        if "python" in given.tool:
            print(f"--tool=python: {sandbox.described()}", file=sys.stderr)
    else:
        penalty = given.length_penalty or "power(1.0)"
        registry.create("length_penalty", penalty, "--length_penalty")
        for name in ("sampler", "seed", "stop", "stream", "speculate", "regex", "json_schema", "tool"):
            if given[name].value != given[name].default:
                raise UserError(f"--{name}: not with --beams, which draws nothing and knows a text only at its end")
        if given.n > given.beams:
            raise UserError(f"--n: at most --beams={given.beams}, got {given.n}")
        how |= {"beams": given.beams, "length_penalty": penalty, "n": given.n}
    prompts = [*given.prompt, *(_read(path) for path in given.prompt_file)] or [""]
    if given.suffix and len(given.suffix) != len(prompts):
        raise UserError(f"--suffix: one for each of {len(prompts)} prompts or none, got {len(given.suffix)}")
    how |= {"suffixes": given.suffix} if given.suffix else {}
    suffixes = given.suffix or [""] * len(prompts)
    if given.stream and len(prompts) * given.n > 1:
        raise UserError(f"--stream: writes one text, not {len(prompts) * given.n}")

    from taxonomy.inference import decode
    from taxonomy.training import checkpoints

    config, params = checkpoints.restore_params(workdir)
    how["tokenizer"] = checkpoints.restore_tokenizer(workdir)
    if "speculate" in how:
        how["speculate"].check_tokenizer(how["tokenizer"])
    if given.stream:
        print(prompts[0], end="", flush=True)
        for (piece,) in decode.stream(config, params, prompts, **how):
            print(piece, end="", flush=True)
        print(suffixes[0])
        return
    texts = decode.generate(config, params, prompts, **how)
    for i, text in enumerate(texts):
        shown = f"{prompts[i // given.n]}{text}{suffixes[i // given.n]}"
        print(f"--- {i + 1} of {len(texts)}\n{shown}" if len(texts) > 1 else shown)


def _constraint(regex: str | None, schema: str | None) -> constraints.Constraint | None:
    if regex is not None and schema is not None:
        raise UserError("--json_schema: not with --regex")
    if regex is not None:
        return constraints.Constraint.regex(regex)
    if schema is None:
        return None
    text = schema if schema.lstrip().startswith("{") else _read(schema, "--json_schema")
    return constraints.Constraint.json_schema(text)


def _read(path: str, flag: str = "--prompt_file") -> str:
    try:
        return pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{flag}: cannot read {path} as text ({e})") from None


if __name__ == "__main__":
    define_flags()
    cli.run(main)
