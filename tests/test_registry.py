"""The index of components: complete, documented, and strict about what it registers."""

import dataclasses
import inspect
import re
from typing import Literal

import pytest

from taxonomy import registry
from taxonomy.registry import Component, Norm, component, formula


def entry(factory: type) -> dict[str, registry.Argument]:
    """The arguments of a class, without registering it."""
    return registry._arguments(factory)


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda e: f"{e.kind}-{e.name}")
def test_components_are_named_and_defined(entry):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", entry.name)
    assert entry.summary.endswith(".") and len(entry.summary) <= 132
    assert inspect.getdoc(entry.factory) and entry.paper is not None
    for argument in entry.arguments.values():
        assert argument.kinds or argument.choices or set(argument.types) <= {int, float, str, bool}, argument


def test_every_idea_of_a_model_has_a_paper():
    for kind in ("attention", "feedforward", "norm", "position", "mask", "block", "head", "embedding", "init", "rope_scaling"):
        entries = registry.entries(kind)
        assert entries, kind
        for one in entries:
            assert re.search(r"(19|20)\d\d", one.paper), f"{kind} {one.name}: {one.paper!r} has no year"


def test_entries_are_sorted_and_found_by_kind():
    everything = registry.entries()
    assert [(e.kind, e.name) for e in everything] == sorted((e.kind, e.name) for e in everything)
    assert registry.entries("norm") == [e for e in everything if e.kind == "norm"]
    assert registry.find(("norm",), "rmsnorm").factory.__name__ == "RMSNorm"


def test_an_unknown_component_names_the_nearest():
    with pytest.raises(LookupError, match=r"unknown norm 'rmsnrom'; did you mean 'rmsnorm'\? \(allowed: layernorm, rmsnorm"):
        registry.find(("norm",), "rmsnrom")


def test_the_type_of_a_field_is_the_type_of_the_argument():
    @dataclasses.dataclass(frozen=True)
    class Example:
        """An example."""

        count: int
        norm: Norm
        rate: float = 0.5
        mode: Literal["a", "b"] = "a"
        limit: int | None = None
        many: tuple[Norm, ...] = ()
        width: int = formula("2*count")

    found = entry(Example)
    assert list(found) == ["count", "norm", "rate", "mode", "limit", "many", "width"]
    assert found["count"].required and found["count"].types == (int,)
    assert found["norm"].kinds == ("norm",) and found["norm"].required and not found["norm"].many
    assert found["rate"].default == 0.5 and found["mode"].choices == ("a", "b")
    assert found["limit"].optional and found["limit"].types == (int,) and not found["rate"].optional
    assert found["many"].many and found["many"].kinds == ("norm",)
    assert found["width"].default == registry.Formula("2*count")
    assert found["mode"].allowed() == "one of 'a', 'b'" and found["limit"].allowed() == "int or None"
    assert found["norm"].allowed() == "a norm component"


def test_what_a_base_class_shares_follows_what_makes_the_component():
    arguments = list(registry.find(("attention",), "gqa").arguments)
    assert arguments[:3] == ["heads", "kv_heads", "head_dim"] and "position" in arguments


def test_mistakes_in_a_declaration_are_found_at_once():
    class Plain:
        """Not a dataclass."""

    @dataclasses.dataclass
    class Undocumented:
        x: int

    @dataclasses.dataclass
    class Second:
        """Defined elsewhere already."""

    with pytest.raises(TypeError, match="not a dataclass"):
        component("plain", kind="test", paper="")(Plain)
    with pytest.raises(TypeError, match="needs a docstring"):
        component("undocumented", kind="test", paper="")(Undocumented)
    with pytest.raises(ValueError, match="norm 'rmsnorm' is registered twice"):
        component("rmsnorm", kind="norm", paper="")(Second)
    assert registry.entries("test") == []


def test_components_are_changed_by_making_new_ones():
    one = Component("mask", "local", (("window", 8),), label="mask")
    two = one.replace(window=9)
    assert (one["window"], two["window"], two.label, two.get("other", 1)) == (8, 9, "mask", 1)
    assert str(two) == "local(window=9)" and list(two.walk()) == [two]
    nested = Component("block", "pre", (("norm", one), ("sublayers", (one, two))))
    assert list(nested.walk()) == [nested, one, one, two]
