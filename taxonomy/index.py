"""The README's index of the literature, written from the pages and the registry.

python -m taxonomy.index            prints it
python -m taxonomy.index --write    puts it between the markers of README.md
"""

import pathlib
from collections import defaultdict

from absl import flags

from taxonomy import cli, describe, notation, registry
from taxonomy import config as config_lib
from taxonomy.errors import UserError
from taxonomy.notation import Call, Name, Node

_MOST = 14  # sizes of a family that are listed one by one
BEGIN, END = "<!-- index:begin -->", "<!-- index:end -->"


def render() -> str:
    """The index as Markdown: a table of systems, one of those that cannot be built, then one of components for each kind."""
    return f"{render_systems()}\n\n{render_undisclosed()}\n\n{render_components()}"


def render_systems() -> str:
    """Every family: what it is made of, its sizes with their parameters, its papers."""
    found = defaultdict(list)
    for one in describe.everything():
        found[one["config"].partition(":")[0]].append(one)
    rows = []
    for page, sizes in found.items():
        published = [one for one in sizes if not one["config"].endswith((":tiny", ":quickstart"))] or sizes
        if not any(one["paper"] for one in published):
            continue  # a page of ours, not of the literature
        listed = [f"{one['config'].partition(':')[2] or 'one'} ({describe.short(one['parameters'])})" for one in published]
        if len(listed) > _MOST:
            listed[3:-2] = [f"... {len(listed)} in all ..."]
        papers = "; ".join(dict.fromkeys(one["paper"] for one in published if one["paper"]))
        sentences = " or ".join(dict.fromkeys(sentence(one["components"]) for one in published))
        verified = "; ".join(dict.fromkeys(one["verified_against"] for one in published if one["verified_against"]))
        shown = f"`{page}`: {', '.join(listed)}"
        rows.append((f"[{sizes[0]['family']}](configs/{page}.py)", sentences, shown, papers, verified))
    return _table(("System", "In a sentence", "Sizes", "Paper", "Verified against"), rows)


def render_undisclosed() -> str:
    """The systems whose architecture is not public, and what is."""
    rows = [(name, organisation, date, public) for name, (organisation, date, public, _) in config_lib.undisclosed().items()]
    return f"**Undisclosed**\n\n{_table(('System', 'Organisation', 'Date', 'What is public'), rows)}"


def render_components() -> str:
    """Every registered component, by kind."""
    by_kind = defaultdict(list)
    for entry in registry.entries():
        by_kind[entry.kind].append((f"`{entry.name}`", entry.summary, entry.paper))
    tables = [f"**{kind}**\n\n{_table(('Component', 'Definition', 'Paper'), rows)}" for kind, rows in by_kind.items()]
    return "\n\n".join(tables)


def sentence(components: dict[str, str]) -> str:
    """What a system is made of, without its numbers: its blocks, then what its parts share."""
    known = {entry.name for entry in registry.entries()}

    def outline(node: Node) -> str:
        """A component with only the components inside it; the model's keys by what they stand for."""
        if isinstance(node, Name):
            return outline(notation.parse(components[node.identifier])) if node.identifier in components else node.identifier
        parts = [outline(child) for child in node.positional if _is_part(child, known | components.keys())]
        parts += [f"{key}={outline(child)}" for key, child in node.keywords if _is_part(child, known | components.keys())]
        return f"{node.identifier}({', '.join(parts)})" if parts else node.identifier

    blocks = dict.fromkeys(outline(notation.parse(text)) for key, text in components.items() if key.startswith("blocks."))
    shared = [outline(notation.parse(components[key])) for key in ("position", "norm", "head") if key in components]
    return f"`{', '.join((' + '.join(blocks), *shared))}`"


def _is_part(node: Node, known: set[str]) -> bool:
    return isinstance(node, Call) or (isinstance(node, Name) and node.identifier in known)


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def inserted(text: str, index: str) -> str:
    """`text` with the index between its markers. Raises UserError when they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md: the lines {BEGIN} and {END} are required, one after the other")
    return f"{before}{BEGIN}\n\n{index}\n\n{END}{after}"


def readme() -> pathlib.Path:
    """The README of this checkout."""
    return config_lib.folder().parent / "README.md"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"index: unexpected argument '{argv[1]}'")
    index = render()
    if not flags.FLAGS.write:
        print(index)
        return
    if not readme().is_file():
        raise UserError(f"--write: no file {readme()}")
    readme().write_text(inserted(readme().read_text(), index))


if __name__ == "__main__":
    flags.DEFINE_bool("write", False, "Update README.md.")
    cli.run(main)
