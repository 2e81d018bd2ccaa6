"""A model section at another width: everything that goes with d_model goes with it."""

import dataclasses
import fractions
from collections.abc import Mapping
from typing import Any

from taxonomy import notation, registry
from taxonomy.errors import UserError
from taxonomy.notation import Call, Literal, Node

# Numbers of sentences that are widths, besides those computed from others; heads are more or wider. Ranks of latents stay.
_WIDTHS = ("d_model", "d_ff", "d_predictor")
_MORE, _WIDER = ("heads", "kv_heads"), ("head_dim", "value_dim")


def widened(section: Mapping[str, Any], d_model: int, wider_heads: bool = False) -> dict[str, Any]:
    """The section with as many times the heads, or as many times as wide ones, and the same for feed-forwards. Raises UserError."""
    times = fractions.Fraction(d_model, section["d_model"])
    return _widened(section, times, (*_WIDTHS, *(_WIDER if wider_heads else _MORE)))


def _widened(section: Mapping[str, Any], times: fractions.Fraction, names: tuple[str, ...]) -> dict[str, Any]:
    def one(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _widened(value, times, names)
        if type(value) is int:
            return _grown(value, times, key) if key in names else value
        return notation.show(_rewritten(notation.parse(value), times, names)) if isinstance(value, str) else value

    return {key: one(key, value) for key, value in section.items()}


def _rewritten(node: Node, times: fractions.Fraction, names: tuple[str, ...]) -> Node:
    def one(name: str, value: Node) -> Node:
        # A table may have a width of its own, which stays.
        if name in names and name != "d_model" and isinstance(value, Literal) and type(value.value) is int:
            return Literal(_grown(value.value, times, name))
        return _rewritten(value, times, names)

    match node:
        case Call(identifier=identifier, positional=positional, keywords=keywords):
            order = (*_arguments(identifier), *[""] * len(positional))
            given = tuple(one(name, value) for name, value in zip(order, positional, strict=False))
            return dataclasses.replace(node, positional=given, keywords=tuple((name, one(name, value)) for name, value in keywords))
        case Literal(value=tuple() as items):
            return Literal(tuple(_rewritten(item, times, names) for item in items))
    return node


def _arguments(identifier: str) -> tuple[str, ...]:
    """What the arguments of a sublayer are called."""
    try:
        return tuple(registry.find(registry.SUBLAYER_KINDS, identifier).arguments)
    except LookupError:
        return ()


def _grown(value: int, times: fractions.Fraction, name: str) -> int:
    grown = value * times
    if grown.denominator != 1:
        raise UserError(f"--widths: {name}={value} times {times} is not a whole number")
    return int(grown)
