"""What `describe` and `index` say about every page, and how the command says it."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from taxonomy import config as config_lib
from taxonomy import describe, index, registry
from taxonomy.errors import UserError

KEYS = {
    "name": str,
    "config": str,
    "family": str,
    "structure": str,
    "parameters": int,
    "active_parameters": int,
    "embedding_parameters": int,
    "flops_per_token": float,
    "kv_cache_bytes_per_token": int,
    "layers": int,
    "d_model": int,
    "components": dict,
    "sources": list,
    "unsure": list,
}


@pytest.fixture(scope="module")
def everything():
    return list(describe.everything())


@pytest.fixture(scope="module")
def rendered(everything):
    return index.render()


def run(*words, importtime=False):
    command = [sys.executable, *(["-X", "importtime"] if importtime else []), "-m", "taxonomy.describe", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def shown(*names):
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(describe.table([describe.describe(config_lib.load_config(name)) for name in names], list(names)))
    return console.export_text()


def test_every_size_is_described(everything):
    expected = [f"{f}:{size}" if size else f for f in config_lib.families() for size in config_lib.sizes(f)]
    assert [one["config"] for one in everything] == expected
    assert len({one["name"] for one in everything}) == len(everything)
    for one in everything:
        assert {key: type(one[key]) for key in KEYS} == KEYS, one["config"]
        assert one == json.loads(json.dumps(one))
        assert one["embedding_parameters"] < one["parameters"]
        stacks = one["structure"].removeprefix("prefix-").split("-")
        assert {"encoder", "decoder"} & set(one["components"]) == set(stacks), one["config"]
        assert any(key.startswith("blocks.") for key in one["components"])


def test_counts_are_near_the_published_ones(everything):
    """Papers round: to the label at worst, such as 760M or 2.7B. A page that counts something else says so."""
    published = {one["config"]: one["parameters"] / one["published"] for one in everything if one["published"] and not one["notes"]}
    assert published
    assert {name: ratio for name, ratio in published.items() if abs(ratio - 1) > 0.02} == {}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gpt2:124m", 124_439_808), ("gpt3:175b", 174_604_259_328), ("gptj:6b", 6_050_882_784), ("palm:540b", 540_356_474_880)],
)
def test_exact_counts(everything, name, parameters):
    (one,) = [one for one in everything if one["config"] == name]
    assert one["parameters"] == parameters


def test_components_are_the_sentences_of_the_page():
    found = describe.components(config_lib.load_config("gpt3:tiny").model)
    assert list(found) == [
        *("decoder", "blocks.dense", "blocks.banded", "attention", "banded_attention", "mlp"),
        *("norm", "position", "head", "initializer"),
    ]
    assert found["decoder"] == "2*(dense + banded)"
    assert found["banded_attention"] == "mha(heads=4, bias=True, mask=local(window=context/8))"
    found = describe.components(config_lib.load_config("electra:tiny", {"model.generator.d_model": 16}).model)
    assert list(found)[-2:] == ["generator.d_model", "generator.head"] and found["generator.d_model"] == "16"


def test_heading(tmp_path):
    assert describe.heading("gptj")[0] == "GPT-J"
    page = tmp_path / "mine.py"
    page.write_text('"""Mine: like yours, but better."""\n')
    assert describe.heading(str(page)) == ("Mine", "like yours, but better.")
    assert describe.heading("nowhere") == ("nowhere", "")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (123_653_376, "124M"),
        (8_632_012_800, "8.63B"),
        (999_999, "1.00M"),
        (540.4e9, "540B"),
        (3.1e23, "310000000P"),
    ],
)
def test_short_numbers(number, text):
    assert describe.short(number) == text


def test_table_shows_what_was_written_and_what_differs():
    text = shown("gpt2:tiny", "gpt2:tiny,model.position=alibi")
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (line.split("│")[1:-1] for line in text.splitlines())
        if cells
    }
    assert rows["position"] == ["learned", "alibi"]
    assert rows["parameters"] == ["136,960", "132,864"]
    assert rows["decoder"] == ["2*block"] * 2
    assert "final_norm" not in rows and "clip" not in rows


def test_index_has_every_system_and_every_component(rendered):
    for entry in registry.entries():
        assert f"| `{entry.name}` | {entry.summary.replace('|', chr(92) + '|')} | {entry.paper} |" in rendered
    papers = {page: papers for page, _, papers, _ in describe.systems()}
    for page, found in papers.items():
        assert (f"(configs/{page}.py)" in rendered) == bool(found)
        assert all(paper in rendered for paper in found)
    assert "`pre(mha, gelu_tanh) + pre(mha(mask=local), gelu_tanh), learned, layernorm, tied`" in rendered


def test_what_is_not_public_is_listed(rendered):
    for name, (organisation, date, public, _) in config_lib.undisclosed().items():
        assert f"| {name} | {organisation} | {date} | {public} |" in rendered


def test_blocks_that_differ_in_numbers_only_are_one_sentence():
    components = {"blocks.a": "pre(one)", "blocks.b": "pre(two)", "one": "swiglu(d_ff=8)", "two": "swiglu(d_ff=16)", "head": "tied"}
    assert index.sentence(components) == "`pre(swiglu), tied`"


def test_index_goes_between_its_markers():
    text = f"# Title\n\n{index.BEGIN}\nold\n{index.END}\n\nThe end.\n"
    new = index.inserted(text, "NEW")
    assert new == f"# Title\n\n{index.BEGIN}\n\nNEW\n\n{index.END}\n\nThe end.\n"
    assert index.inserted(new, "NEW") == new
    for broken in ("nothing", f"{index.END} {index.BEGIN}"):
        with pytest.raises(UserError, match="index:begin"):
            index.inserted(broken, "NEW")


def test_list_is_complete_and_imports_no_other_framework():
    done = run("--list", importtime=True)
    assert done.returncode == 0, done.stderr
    for page, name, _, _ in describe.systems():
        assert page in done.stdout and name in done.stdout
    for entry in registry.entries():
        assert entry.name in done.stdout
    assert "Undisclosed systems" in done.stdout and all(name in done.stdout for name in config_lib.undisclosed())
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "jax" in imported
    assert not imported & {"torch", "transformers", "tensorflow", "tensorflow_datasets", "orbax", "grain", "matplotlib"}


def test_json_with_overrides():
    done = run("--json", "--config=gpt3:175b", "--config.model.position=alibi")
    assert done.returncode == 0, done.stderr
    one = json.loads(done.stdout)
    assert one["name"] == "gpt-3-175b"
    assert one["parameters"] == 174_604_259_328 - 2048 * 12288


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("palm:9b",), "palm has no size '9b'; did you mean '8b'?"),
        (("gpt-4",), "gpt-4: OpenAI has not disclosed its architecture, so it cannot be built (public: "),
        ((), "name a system"),
        (("--all",), "--all: only together with --json"),
    ],
)
def test_bad_input_is_one_line(words, complaint):
    done = run(*words)
    assert done.returncode == 2
    assert complaint in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
