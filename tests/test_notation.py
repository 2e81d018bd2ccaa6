"""The notation: what is printed parses back to the same sentence, and nothing in a sentence is ever run."""

import contextlib
import keyword
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taxonomy import notation
from taxonomy.notation import Call, Layers, Literal, Name, NotationError, Operation, Repeat, parse, show

BLOCKS = {"dense": "", "moe": "", "local": ""}
SCALARS = {"d_model": 64, "heads": 4, "half": 0.5}

_identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda word: not keyword.iskeyword(word))
_literals = st.one_of(
    st.integers(-(10**12), 10**12),
    st.floats(-1e300, 1e300),
    st.booleans(),
    st.none(),
    st.text(max_size=12),
    st.sampled_from(["it's", 'say "x"', "'\"", "a\\b", "\n", "{x}", "#", ""]),
).map(Literal)


def _calls(nodes):
    keywords = st.dictionaries(_identifiers, nodes, max_size=3).map(lambda d: tuple(d.items()))
    return st.builds(Call, _identifiers, st.lists(nodes, max_size=3).map(tuple), keywords)


def _compound(nodes):
    operations = st.builds(Operation, st.sampled_from(["+", "-", "*", "/", "//", "**"]), nodes, nodes)
    return operations | _calls(nodes) | st.lists(nodes, max_size=3).map(lambda items: Literal(tuple(items)))


_nodes = st.recursive(_literals | _identifiers.map(Name), _compound, max_leaves=20)


@settings(max_examples=400, deadline=None)
@given(_nodes)
def test_what_is_shown_parses_back(node):
    assert parse(show(node)) == node


def _items(layers):
    return st.lists(st.sampled_from(sorted(BLOCKS)) | st.builds(Repeat, st.integers(1, 9), layers), min_size=1, max_size=3).map(
        lambda items: Layers(tuple(items))
    )


_layers = st.recursive(st.sampled_from(sorted(BLOCKS)).map(lambda name: Layers((name,))), _items, max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(_layers)
def test_printed_layers_parse_back(layers):
    again = notation.layers(str(layers), BLOCKS, {}, "decoder")
    assert again == layers
    assert list(again) == list(layers)
    assert len(layers) == len(list(layers))
    assert layers.names() == set(layers)


@pytest.mark.parametrize(
    "text",
    [
        "rope",
        "gqa(heads=64, kv_heads=8, head_dim=128)",
        "moe(experts=64, top_k=2, router=softmax(balance=0.01), expert=geglu(d_ff=4*d_model))",
        "pre(attention, mlp)",
        "tied(scale=d_model**-0.5)",
        "f(-x**2, (-2)**2, 2**-1, -(a + b)/c, a - (b - c), a/(b*c), (a**b)**c, a**b**c)",
        "f('a', \"it's\", '', (1,), (), [1, 2], None, True, -0.0, 1e-6)",
        "f(- - -x, --1, -True)",
        " 5*dense + 9*(retro + 2*dense) ",
        "cosine(peak=3e-4,\n    warmup='1%')",
    ],
)
def test_showing_is_stable(text):
    shown = show(parse(text))
    assert parse(shown) == parse(text)
    assert show(parse(shown)) == shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-2**2", -4),
        ("(-2)**2", 4),
        ("2**3**2", 512),
        ("10 - 4 - 3", 3),
        ("8*d_model/3*3", 512.0),
        ("d_model/heads", 16),
        ("d_model // 5", 12),
        ("d_model*half", 32.0),
        ("-d_model + 1", -63),
        ("7/2", 3.5),
    ],
)
def test_arithmetic_is_that_of_mathematics(text, value):
    result = notation.evaluate(parse(text), SCALARS, text, "x")
    assert result == value and type(result) is type(value)


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.integers(-9, 9).map(Literal), lambda n: st.builds(Operation, st.sampled_from("+-*"), n, n), max_leaves=12))
def test_arithmetic_agrees_with_python(node):
    assert notation.evaluate(node, {}, "", "x") == eval(show(node), {"__builtins__": {}})


@pytest.mark.parametrize(
    ("first", "second"), [("1", "1.0"), ("1", "True"), ("0", "False"), ("0", "None"), ("'1'", "1"), ("()", "0")]
)
def test_equal_numbers_of_different_types_are_different_sentences(first, second):
    assert parse(f"f({first})") != parse(f"f({second})")


def test_columns_do_not_make_sentences_different():
    assert parse("f(a,b)") == parse("f( a,   b )")
    assert hash(parse("f(a,b)")) == hash(parse("f( a,   b )"))


@pytest.mark.parametrize(
    ("text", "printed", "names"),
    [
        ("48*(dense + moe)", "48*(dense + moe)", ["dense", "moe"] * 48),
        ("2*(5*local + dense) + 2*local", "2*(5*local + dense) + 2*local", (["local"] * 5 + ["dense"]) * 2 + ["local"] * 2),
        ("dense + moe + dense", "dense + moe + dense", ["dense", "moe", "dense"]),
        ("(d_model/heads)*dense", "16*dense", ["dense"] * 16),
        ("2*(3*dense)", "2*(3*dense)", ["dense"] * 6),
        ("2*3*dense", "6*dense", ["dense"] * 6),
    ],
)
def test_layer_algebra(text, printed, names):
    layers = notation.layers(text, BLOCKS, SCALARS, "decoder")
    assert str(layers) == printed
    assert list(layers) == names and len(layers) == len(names)
    assert layers.names() == set(names)


def test_repeats_that_differ_in_what_is_scanned_are_different_layers():
    nested, flat = (notation.layers(text, BLOCKS, {}, "decoder") for text in ("2*(3*dense)", "6*dense"))
    assert list(nested) == list(flat) and nested != flat


CODE = [
    "a.b",
    "f(a.b)",
    "().__class__.__bases__",
    "lambda: 1",
    "f(x=lambda y: y)",
    "[x for x in y]",
    "{x for x in y}",
    "{x: 1 for x in y}",
    "(x for x in y)",
    "f'{x}'",
    "f(f'{x}')",
    "__import__('os').system('false')",
    "f()()",
    "f[0]",
    "f(a[0])",
    "(a := 1)",
    "f((a := 1))",
    "f(*a)",
    "f(**a)",
    "{'a': 1}",
    "{1}",
    "b'bytes'",
    "1j",
    "...",
    "a if b else c",
    "a and b",
    "not a",
    "a < b",
    "a == b",
    "~a",
    "+a",
    "a @ b",
    "a % b",
    "a << b",
    "a | b",
    "await a",
    "yield a",
    "a, *b",
    "import os",
    "a = 1",
    "a; b",
    "f(a=1, a=2)",
    "1e999",
    "f(",
    "f)",
    "a b",
    "",
    "  ",
    "\x00",
    "'open",
    "f(a\nb)",
]
BOMBS = [
    "(" * 10_000,
    "(" * 4_000 + "a" + ")" * 4_000,
    "(" * 10_000 + "a" + ")" * 10_000,
    "[" * 4_000,
    "-" * 9_000 + "a",
    "a" + "+a" * 4_500,
    "a" + "**a" * 3_000,
    "f(" * 3_000 + ")" * 3_000,
    "2*(" * 2_000 + "a" + ")" * 2_000,
    "a" * 20_000,
    "9" * 9_000,
]


@pytest.mark.parametrize("text", CODE + BOMBS, ids=lambda text: repr(text[:24]))
def test_nothing_but_the_notation_is_read(text):
    before = time.process_time()
    with pytest.raises(NotationError) as caught:
        parse(text, "model.mlp")
    assert time.process_time() - before < 0.5
    message = str(caught.value)
    assert message.startswith("model.mlp: ") and len(message.splitlines()) == 1
    if len(text) < 100:
        assert "column" in message and message.endswith(" ".join(text.split("\n")).strip())


@pytest.mark.parametrize("text", [None, 3, 1.5, b"rope", ("rope",), ["rope"]])
def test_only_strings_are_sentences(text):
    with pytest.raises(NotationError, match=r"^model\.mlp: expected a string .* got "):
        parse(text, "model.mlp")


@pytest.mark.parametrize("pattern", ["({})", "-{}", "{}+a", "a**{}", "f({})", "f(x={})", "({},)", "2*({})"])
def test_a_sentence_of_any_depth_is_refused_or_usable(pattern):
    """No depth is deep enough to pass the parser and too deep for what comes after it."""
    text, accepted = "a", 0
    before, _, after = pattern.partition("{}")
    for depth in [*range(1, 400, 7), 500, 800, 990, 1200]:
        text = before * depth + "a" + after * depth
        try:
            node = parse(text)
        except NotationError:
            continue
        accepted = depth
        assert parse(show(node)) == node and hash(node) == hash(parse(text))
        for read in (
            lambda text=text, node=node: notation.evaluate(node, {"a": 0}, text, "x"),
            lambda text=text: notation.layers(text, {"a": ""}, {}, "x"),
        ):
            with contextlib.suppress(NotationError):
                read()
    assert accepted >= 50


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "2**10000",
        "(10**12)**64**2",
        "0**-1",
        "1/0",
        "1//0",
        "(-8)**0.5",
        "1e300*1e300",
        "(1e300*1e300)*0",
        "d_modle",
        "f(1)",
        "'a'",
        "None",
        "True*2",
        "(1,)",
    ],
)
def test_numbers_that_cannot_be_computed(text):
    before = time.process_time()
    with pytest.raises(NotationError) as caught:
        notation.evaluate(parse(text), SCALARS, text, "model.mlp")
    assert time.process_time() - before < 0.5
    message = str(caught.value)
    assert message.startswith("model.mlp: ") and message.endswith(text) and len(message.splitlines()) == 1
    if text == "d_modle":
        assert "did you mean 'd_model'?" in message


@pytest.mark.parametrize(
    "text",
    [
        "1000000000*dense",
        "1000000*(1000000*(1000000*(1000000*dense)))",
        f"{10**30}*dense",
        f"{'9' * 4000}*{'9' * 4000}*dense",
        "0*dense",
        "-1*dense",
        "-dense",
        "2.5*dense",
        "(1/3)*dense",
        "True*dense",
        "dense*2",
        "dense - moe",
        "dense/2",
        "dense*moe",
        "2",
        "dense + 2",
        "dense(2)",
        "'dense'",
        "(dense, moe)",
        "2*d_modle*dense",
        "dens",
        "4*(dense + mo)",
    ],
    ids=lambda text: text[:24],
)
def test_impossible_stacks(text):
    before = time.process_time()
    with pytest.raises(NotationError) as caught:
        notation.layers(text, BLOCKS, SCALARS, "model.decoder")
    assert time.process_time() - before < 0.5
    message = str(caught.value)
    assert message.startswith("model.decoder: ") and f" of: {text}" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(("text", "nearest"), [("4*dens", "dense"), ("4*(dense + mo)", "moe")])
def test_unknown_blocks_name_the_nearest(text, nearest):
    with pytest.raises(NotationError, match=f"did you mean '{nearest}'"):
        notation.layers(text, BLOCKS, SCALARS, "model.decoder")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("gelu(d_ff=4*x.y)", "x.y"), ("  gelu(d_ff=4*x.y)", "x.y"), ("gelu(\n    d_ff=4*x.y,\n    bias=True)", "x.y"), ("a b", "b")],
)
def test_the_column_points_at_the_mistake(text, shown):
    with pytest.raises(NotationError) as caught:
        parse(text, "model.mlp")
    place, _, sentence = str(caught.value).partition(" of: ")
    column = int(place.rsplit("column ", 1)[1])
    assert sentence[column - 1 :].startswith(shown)
