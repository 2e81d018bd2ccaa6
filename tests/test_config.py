"""Experiments: every page at every size, typed overrides, and a JSON form that loses nothing."""

import json
import math
import pathlib
import re

import jax
import pytest

from taxonomy import config as config_lib
from taxonomy import spec
from taxonomy.config import load_config
from taxonomy.errors import UserError
from taxonomy.layers.params import Declared
from taxonomy.model import blank, build

# Counted from the published tables and checkpoints, not by this code; of families in WITHOUT_TABLES without the token table.
PARAMETERS = json.loads((pathlib.Path(__file__).parent / "parameters.json").read_text())
WITHOUT_TABLES = {"anthropic_lm", "lamda"}
# The head that guesses tokens (a norm and a bias of every token), where the count has the pooler, as wide as its projection.
GUESSES = lambda model, width: 2 * width + model.vocab  # noqa: E731
# What our modules have beyond a count that stops at the projections; the pages' notes say the same.
BEYOND = {
    "anthropic_lm": lambda model, width: (2 * len(model.decoder) + 1) * width,  # the gains of the norms
    "gato": lambda model, width: (4 * len(model.decoder) + 1) * width,  # biases of the norms and of relative positions
    "flan": lambda model, width: len(model.decoder) * 32 * 128,  # the relative biases
    "longnet": lambda model, width: len(model.decoder) * 10 * width,  # the norms before projections to the stream
    **dict.fromkeys(("bert", "biobert", "pubmedbert"), GUESSES),
}
# No published count stops where these do: the encoders and heads of states, returns and actions are left out.
TRUNKS = {"decision_transformer:atari": 1_202_432, "decision_transformer:gym": 595_584}
# No widths are published, so that these are placeholders.
PLACEHOLDERS = {"afm_on_device:2025-3b", "afm_server:pt-moe-2025"}
# Sizes of our own: for tests, and to try a system in minutes.
UNPUBLISHED = (":tiny", ":quickstart", ":")
EVERY_SIZE = [f"{family}:{size}" for family in config_lib.families() for size in config_lib.sizes(family)]


def parameters(config) -> int:
    model = build(spec.model(config.model).alone)
    declared = jax.eval_shape(lambda key: model.init(key, **blank(model.spec)), jax.random.key(0))["params"]
    leaves = jax.tree.leaves(declared, is_leaf=lambda leaf: isinstance(leaf, Declared))
    # What moves a router's choice is state, and nowhere counted.
    return sum(math.prod(leaf.value.shape) for leaf in leaves if leaf.role != "selection")


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_every_size_builds_and_has_its_published_parameters(name):
    config = load_config(name)
    count = parameters(config)
    if name.endswith(UNPUBLISHED):
        assert count < 10e6
    elif name in TRUNKS:
        assert count == TRUNKS[name]
    elif name in PLACEHOLDERS:
        assert "d_model" in config.about.unsure and "placeholder" in config.about.notes
    else:
        family, width = name.partition(":")[0], config.model.d_model
        expected = PARAMETERS[name] + (config.model.vocab * width if family in WITHOUT_TABLES else 0)
        if family in BEYOND:
            assert config.about.notes
            expected += BEYOND[family](spec.model(config.model), width)
        assert count == expected
    if config.about.published and not config.about.notes:
        assert count == pytest.approx(config.about.published, rel=0.02)


def test_all_published_sizes_have_a_page():
    published = {name for name in EVERY_SIZE if not name.endswith(UNPUBLISHED)} - {*TRUNKS, *PLACEHOLDERS}
    assert set(PARAMETERS) == published


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_every_size_survives_json(name):
    config = load_config(name)
    text = config_lib.to_json(config)
    again = config_lib.from_json(text)
    assert again.to_dict() == config.to_dict() and again.is_locked
    assert config_lib.to_json(again) == text
    assert spec.model(again.model) == spec.model(config.model)
    assert json.loads(text)["name"] == name.removesuffix(":")


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_every_size_says_where_its_numbers_come_from(name):
    about = load_config(name).about
    if not name.endswith(UNPUBLISHED):
        assert about.paper and about.sources and about.facts


def test_what_json_reads_is_still_typed():
    config = load_config("gpt2:tiny", {"train.tokens": 5, "about.sources": ["a", "b"]})
    again = config_lib.from_json(config_lib.to_json(config))
    assert again.train.tokens == 5.0 and type(again.train.tokens) is float
    assert again.about.sources == ("a", "b")
    text = config_lib.to_json(config).replace('"max_skipped"', '"max_skiped"')
    with pytest.raises(UserError, match=r"config\.train\.max_skiped: unknown key .* did you mean 'max_skipped'"):
        config_lib.from_json(text)


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("seed", "3", 3),
        ("seed", 3, 3),
        ("seed", "1e3", 1000),
        ("train.steps", "250", 250),
        ("train.steps", "None", None),
        ("train.steps", None, None),
        ("train.tokens", "3e9", 3e9),
        ("train.tokens", 7, 7.0),
        ("train.clip", "2", 2.0),
        ("train.scan", "False", False),
        ("train.scan", "false", False),
        ("train.scan", True, True),
        ("train.batch_ramp", "linear(start=1, over='2 steps')", "linear(start=1, over='2 steps')"),
        ("report.prompts", "('a', 'b,c')", ("a", "b,c")),
        ("report.prompts", ["a"], ("a",)),
        ("model.position", "alibi", "alibi"),
        ("model.mask", "local(window=8)", "local(window=8)"),
        ("model.d_model", "128", 128),
        ("model.final_norm", "None", None),
        ("model.blocks.block", "post(attention, mlp)", "post(attention, mlp)"),
        ("name", "mine", "mine"),
    ],
)
def test_overrides_are_typed(key, given, value):
    found = load_config("gpt2:tiny", {key: given})
    for part in key.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", "three", "expected int, got 'three'"),
        ("seed", 1.5, "expected int, got 1.5"),
        ("seed", "1.5", "expected int, got 1.5"),
        ("seed", True, "expected int, got True"),
        ("seed", "True", "expected int, got True"),
        ("seed", None, "expected int, got None"),
        ("seed", "None", "expected int, got None"),
        ("seed", "[", "expected int, got '['"),
        ("seed", "{[]: 1}", "expected int, got '{[]: 1}'"),
        ("seed", "__import__('os')", "expected int"),
        ("seed", "9**9**9", "expected int"),
        ("train.clip", True, "expected float, got True"),
        ("train.clip", "big", "expected float, got 'big'"),
        ("train.scan", 1, "expected bool, got 1"),
        ("train.optimizer", 3, "expected str, got 3"),
        ("train.optimizer", None, "expected str, got None"),
        ("model.position", 3, "expected str, got 3"),
        ("model.d_model", "wide", "expected int, got 'wide'"),
        ("train", "x", "is a section; set one of its keys"),
        ("model.blocks", "x", "is a section; set one of its keys"),
        ("train.stepz", 3, "unknown key 'stepz'; did you mean 'steps'?"),
        ("trian.steps", 3, "unknown key 'trian'; did you mean 'train'?"),
        ("model.positon", "alibi", "unknown key 'positon'; did you mean 'position'?"),
        ("model.blocks.blok", "pre(mlp)", "unknown key 'blok'; did you mean 'block'?"),
        ("seed.value", 3, "'seed' has no keys of its own"),
        ("", 3, "unknown key ''"),
    ],
)
def test_a_mistaken_override_is_one_line_that_names_its_key(key, value, said):
    with pytest.raises(UserError) as caught:
        load_config("gpt2:tiny", {key: value})
    message = str(caught.value)
    place = key.split(".")[0] if key.startswith("trian") else key
    assert message.startswith(f"config.{place}: ") and said in message and len(message.splitlines()) == 1


def test_overrides_can_stand_in_the_name():
    config = load_config("gpt2:tiny,seed=3,model.position=rope(dims=8, theta=1e4),report.prompts=('a,b', 'c')")
    assert (config.seed, config.model.position, config.report.prompts) == (3, "rope(dims=8, theta=1e4)", ("a,b", "c"))
    assert config.name == "gpt2:tiny"
    assert load_config("gpt2:seed=4").seed == 4 and load_config("gpt2:seed=4").model == load_config("gpt2").model
    deep = load_config("gpt2:tiny,model.mlp=gelu(d_ff=2*(4*(d_model//(heads)))),seed=1")
    assert (deep.model.mlp, deep.seed) == ("gelu(d_ff=2*(4*(d_model//(heads))))", 1)
    plain = load_config("gpt2:tiny,name='a, b',seed=2")
    assert (plain.name, plain.seed) == ("'a, b'", 2)
    quoted = load_config("gpt2:tiny,report.sampler=f(stop='),('),seed=2")
    assert (quoted.report.sampler, quoted.seed) == ("f(stop='),(')", 2)


def test_a_page_is_found_by_family_and_by_path():
    path = config_lib.folder() / "gpt2.py"
    by_path = load_config(f"{path}:tiny,seed=2")
    assert by_path.to_dict() == load_config("gpt2:tiny", {"seed": 2}).to_dict()


def test_a_page_can_be_derived_from_another():
    sections = {"model": {"position": "alibi"}, "train": {"steps": 7}, "about": {"notes": "mine"}}
    found, base = config_lib.derived("gpt2:tiny", **sections), load_config("gpt2:tiny")
    assert found.model.to_dict() == base.model.to_dict() | {"position": "alibi"}
    # A section is written anew: nothing of the base's recipe or of its sources is left.
    assert found.train.to_dict() == config_lib.experiment({}, train={"steps": 7}).train.to_dict()
    assert (found.name, found.about.notes, found.about.paper) == ("", "mine", "")
    assert found.data.to_dict() == base.data.to_dict() and not found.is_locked
    with pytest.raises(UserError, match=r"config\.train\.stepz: unknown key"):
        config_lib.derived("gpt2:tiny", train={"stepz": 7})


def test_what_is_not_public_cannot_be_built():
    systems = config_lib.undisclosed()
    assert len(systems) > 10 and "undisclosed" not in config_lib.families()
    for name, (organisation, date, public, source) in systems.items():
        assert re.fullmatch(r"20\d\d-\d\d", date) and public.endswith(".") and source
        with pytest.raises(UserError) as caught:
            load_config(f"{name}:tiny")
        said = f"{name}: {organisation} has not disclosed its architecture, so it cannot be built (public: {public[:-1]})"
        assert str(caught.value) == said
    with pytest.raises(UserError, match=r"^gpt-4: OpenAI has not disclosed"):
        load_config("GPT4")
    with pytest.raises(UserError, match=r"undisclosed defines no get_config\(size\)"):
        load_config("undisclosed")


def test_the_argument_dictionary_wins_over_the_name():
    assert load_config("gpt2:tiny,seed=3", {"seed": 4}).seed == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt22:tiny", "no file gpt22.py; did you mean 'gpt2'?"),
        ("nowhere/gpt2.py:tiny", "no file nowhere/gpt2.py"),
        ("", "no file"),
        ("gpt2:tyni", "gpt2 has no size 'tyni'; did you mean 'tiny'?"),
        ("gpt2:tiny,seed", "expected key=value after the size, got 'seed'"),
        ("gpt2:tiny,seeds=1", "unknown key 'seeds'; did you mean 'seed'?"),
        ("gpt2:tiny,seed=x", "config.seed: expected int, got 'x'"),
    ],
)
def test_a_mistaken_name_is_one_line(name, said):
    with pytest.raises(UserError) as caught:
        load_config(name)
    message = str(caught.value)
    assert message.startswith("config") and said in message and len(message.splitlines()) == 1


def test_a_file_of_ones_own(tmp_path):
    page = tmp_path / "mine.py"
    page.write_text(
        "from taxonomy.config import load_config\n"
        "def get_config():\n"
        "    with load_config('gpt2:tiny').unlocked() as config:\n"
        "        config.name = ''\n"
        "    return config\n"
    )
    assert load_config(f"{page}:seed=5").seed == 5
    with pytest.raises(UserError, match=r"mine\.py has no sizes, got 'big'"):
        load_config(f"{page}:big")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"empty.py defines no get_config\(size\)"):
        load_config(f"{tmp_path / 'empty.py'}:big")


def test_a_loaded_config_is_closed():
    config = load_config("gpt2:tiny")
    with pytest.raises(AttributeError):
        config.train.stepz = 3
    with pytest.raises(TypeError):
        config.seed = "three"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"stepz": 3}}, "config.train.stepz: unknown key"),
        ({"trian": {"steps": 3}}, "config.trian: unknown key"),
        ({"train": {"steps": "many"}}, "config.train.steps: expected int, got 'many'"),
        ({"seed": 1.5}, "config.seed: expected int, got 1.5"),
    ],
)
def test_a_page_is_held_to_the_same_rules(sections, said):
    with pytest.raises(UserError) as caught:
        config_lib.experiment(model={"vocab": 8}, **sections)
    assert str(caught.value).startswith(said)
