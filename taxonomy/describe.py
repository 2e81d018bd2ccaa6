"""What a system is and costs, from its page alone.

    python -m taxonomy.describe palm:8b gpt3:6.7b                               side by side
    python -m taxonomy.describe gpt2:124m --config=gpt2:124m --config.model.position=alibi   before and after
    python -m taxonomy.describe --json palm:540b                                one line of JSON; --json --all: one for every size
    python -m taxonomy.describe --list                                          every system and every component

Arrays are only shapes here, so 540B parameters take as long as 8B.
"""

import ast
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections
from absl import flags

from taxonomy import cli, registry, spec
from taxonomy import config as config_lib
from taxonomy.errors import UserError

_SCALARS = ("vocab", "d_model", "context", "inputs")
# The order of a page: what the stack is made of, then what its parts default to. Other keys are sublayers.
_FIRST = ("encoder", "decoder", "ahead", "blocks")
_LAST = (
    "norm",
    "position",
    "mask",
    "embedding",
    "head",
    "encoder_norm",
    "final_norm",
    "initializer",
    "parametrization",
    "generator",
)
_RECIPE = ("tokens", "steps", "batch_tokens", "batch_ramp", "context", "optimizer", "schedule", "clip", "loss", "ahead")


def describe(config: ml_collections.ConfigDict, page: str | None = None) -> dict[str, Any]:
    """Everything there is to say about a system, ready for JSON. `page` is the family or file it came from."""
    from taxonomy.scaling import accounting

    model, about = spec.model(config.model), config.about
    costs = accounting.count(model)
    ordered = "order" in registry.create("objective", config.train.objective, "config.train.objective").gives
    family, title = heading(page or config.name.partition(":")[0])
    return {
        "name": about.facts or config.name,
        "config": config.name,
        "family": family,
        "title": title,
        "structure": model.structure,
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "embedding_parameters": costs.embedding_parameters,
        **{key: getattr(costs, key) for key in ("generator_parameters", "ahead_parameters") if getattr(costs, key)},
        "parameters_by_part": dict(costs.by_part),
        "published": about.published,
        "flops_per_token": costs.flops_per_token,
        "train_flops_per_token": accounting.train_flops_per_token(model, ordered=ordered),
        "kv_cache_bytes_per_token": costs.kv_cache_bytes_per_token,
        "kv_cache_bytes": costs.kv_cache_bytes,
        "int8_cache_bytes_per_token": accounting.cache_bytes(model, 1, 0, "int8").vectors,
        "cache_position_bytes_per_token": accounting.cache_bytes(model, 1, 0).positions,
        "layers": costs.layers,
        **({f"{name}_layers": len(layers) for name, layers in model.stacks.items()} if len(model.stacks) > 1 else {}),
        **{key: getattr(model, key) for key in ("d_model", "context", "vocab")},
        **({"inputs": model.inputs} if len(model.stacks) > 1 else {}),
        "components": components(config.model),
        "training": {key: config.train[key] for key in _RECIPE if config.train[key] is not None},
        "paper": about.paper,
        "sources": list(about.sources),
        "unsure": list(about.unsure),
        "notes": about.notes,
        "verified_against": about.verified_against,
    }


def components(model: Mapping[str, Any]) -> dict[str, str]:
    """The sentences of a model section as they are written, by key; blocks as "blocks.NAME", a generator's as "generator.KEY"."""
    own = [key for key in model if key not in (*_FIRST, *_LAST, *_SCALARS)]
    found = {}
    for key in (*_FIRST, *own, *_LAST):
        value = model.get(key)
        if key == "blocks":
            algebra = f"{model.get('encoder')} {model.get('decoder')} {model.get('ahead')}"
            used = dict.fromkeys(word for word in re.findall(r"\w+", algebra) if word in value)
            found |= {f"blocks.{block}": value[block] for block in used}
        elif key == "generator" and value:
            found |= {f"generator.{changed}": str(change) for changed, change in value.items()}
        elif value is not None:
            found[key] = str(value)
    return found


def heading(page: str) -> tuple[str, str]:
    """The literature's name of a family and one sentence about it: the first line of its page, "NAME: SENTENCE."."""
    path = pathlib.Path(page) if page.endswith(".py") else config_lib.folder() / f"{page}.py"
    if not path.is_file():
        return path.stem, ""
    line = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    name, colon, sentence = line.partition(": ")
    return (name, sentence) if colon else (path.stem, line)


def everything() -> Iterator[dict[str, Any]]:
    """Every size of every family."""
    for family in config_lib.families():
        for size in config_lib.sizes(family):
            yield describe(config_lib.load_config(f"{family}:{size}" if size else family), family)


def systems() -> list[tuple[str, str, list[str], list[str]]]:
    """For every family: its page, its name, its papers, its sizes."""
    rows = []
    for family in config_lib.families():
        sizes = config_lib.sizes(family)
        configs = [config_lib.load_config(f"{family}:{size}" if size else family) for size in sizes]
        papers = dict.fromkeys(config.about.paper for config in configs if config.about.paper)
        rows.append((family, heading(family)[0], list(papers), [size for size in sizes if size]))
    return rows


def short(number: float) -> str:
    """Three digits and a letter: 1234567 -> 1.23M."""
    for unit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * unit:
            scaled = number / unit
            return f"{scaled:.{max(0, 2 - len(str(int(scaled))) + 1)}f}{letter}"
    return f"{number:.0f}"


def size(count: float, unit: str) -> str:
    """The same with a unit: 1.23 MB; a billion is G there."""
    digits, letter = re.fullmatch(r"([-\d.]+)(\D?)", short(count)).groups()
    return f"{digits} {letter.replace('B', 'G')}{unit}"


def table(descriptions: list[dict[str, Any]], headers: list[str]) -> Any:
    """A rich table with a column for each system; rows in which they differ stand out."""
    from rich.table import Table
    from rich.text import Text

    result = Table(show_lines=False, header_style="bold")
    result.add_column("")
    for header in headers:
        result.add_column(header, overflow="fold", ratio=1)
    for section in _sections(descriptions):
        for name, cells in section:
            if any(cells):
                style = "bold yellow" if len(set(cells)) > 1 else ""
                result.add_row(Text(name, style="dim"), *(Text(cell, style=style) for cell in cells))
        result.add_section()
    return result


def _sections(descriptions: list[dict[str, Any]]) -> Iterator[list[tuple[str, list[str]]]]:
    def row(name, cell):
        return name, [cell(d) for d in descriptions]

    def keys(part: str) -> list[str]:
        # Of the first system in its order, then what only the others have; decoder and blocks before what they name.
        found = dict.fromkeys(key for d in descriptions for key in d[part])
        last = {key for key in found if key.partition(".")[0] in _LAST}
        return sorted(found, key=lambda key: (key not in spec.STACKS, not key.startswith("blocks."), key in last))

    def plain(part: str, key: str):
        return row(key, lambda d: _shown(d[part].get(key)))

    def parameters(d):
        published = d["published"]
        difference = f"\npublished {short(published)}, here {d['parameters'] / published - 1:+.2%}" if published else ""
        return f"{d['parameters']:,}{difference}"

    yield [row("family", lambda d: d["family"]), row("paper", lambda d: d["paper"]), row("structure", lambda d: d["structure"])]
    yield [plain("components", key) for key in keys("components")]
    yield [row(key, lambda d, key=key: _shown(d[key])) for key in ("layers", "d_model", "context", "vocab")]
    yield [
        row("parameters", parameters),
        row("of them active", lambda d: f"{d['active_parameters']:,}" if d["active_parameters"] != d["parameters"] else ""),
        row("of them in tables", lambda d: f"{d['embedding_parameters']:,}"),
        row("and in the generator", lambda d: f"{d['generator_parameters']:,}" if "generator_parameters" in d else ""),
        row("and in modules ahead", lambda d: f"{d['ahead_parameters']:,}" if "ahead_parameters" in d else ""),
        row("forward FLOPs/token", lambda d: size(d["flops_per_token"], "FLOP")),
        row("training FLOPs/token", lambda d: size(d["train_flops_per_token"], "FLOP")),
        row(
            "cache bytes/token",
            lambda d: f"{d['kv_cache_bytes_per_token']:,} (bfloat16), {d['int8_cache_bytes_per_token']:,} (int8)",
        ),
        row("cache at full context", lambda d: size(d["kv_cache_bytes"], "B")),
    ]
    default = config_lib.DEFAULTS["train"]
    yield [
        plain("training", key) for key in _RECIPE if any(d["training"].get(key, default[key]) != default[key] for d in descriptions)
    ]
    yield [
        row("sources", lambda d: "; ".join(d["sources"])),
        row("verified against", lambda d: d["verified_against"]),
        row("unsure", lambda d: ", ".join(d["unsure"])),
        row("notes", lambda d: d["notes"]),
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float) and abs(value) >= 1e4:
        return short(value)
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)


def _lists() -> Iterator[Any]:
    from rich.table import Table

    result = Table("system", "page", "sizes", "paper", title="Systems", title_justify="left")
    for page, name, papers, sizes in systems():
        result.add_row(name, page, ", ".join(sizes), "; ".join(papers))
    yield result
    result = Table("system", "organisation", "date", "what is public", "source", title="Undisclosed systems", title_justify="left")
    for name, row in config_lib.undisclosed().items():
        result.add_row(name, *row)
    yield result
    result = Table("kind", "component", "definition", "paper", title="Components", title_justify="left")
    kind = None
    for entry in registry.entries():
        if kind not in (None, entry.kind):
            result.add_section()
        result.add_row("" if entry.kind == kind else entry.kind, entry.name, entry.summary, entry.paper)
        kind = entry.kind
    yield result


def define_flags() -> None:
    """Declares this command's flags."""
    flags.DEFINE_bool("json", False, "One line of JSON for each system.")
    flags.DEFINE_bool("all", False, "Every size of every family.")
    flags.DEFINE_bool("list", False, "Every system and every component.")


def main(argv: list[str]) -> None:
    import jax

    # Shapes need no accelerator, and one may be busy with a run.
    jax.config.update("jax_platforms", "cpu")
    given, names = flags.FLAGS, argv[1:]
    config = cli.config(required=False)
    if given.list:
        _print(_lists())
        return
    if given.all:
        if names or config is not None:
            raise UserError("--all: describes every system; name none")
        if not given.json:
            raise UserError("--all: only together with --json (--list shows every system as a table)")
        for one in everything():
            print(json.dumps(one), flush=True)
        return
    found = [(name, describe(config_lib.load_config(name), name.partition(":")[0])) for name in names]
    if config is not None:
        found.append((f"{config.name} (--config)", describe(config)))
    if not found:
        raise UserError(f"describe: name a system, such as gpt3:175b, or say --list (families: {', '.join(config_lib.families())})")
    if given.json:
        for _, one in found:
            print(json.dumps(one))
    else:
        _print([table([one for _, one in found], [header for header, _ in found])])


def _print(tables: Iterable[Any]) -> None:
    from rich.console import Console

    # Wide enough for whole sentences when nobody's window limits it.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for one in tables:
        console.print(one)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
