"""A config in another shape: its width and its depth changed, everything else as the family has it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from taxonomy import notation, spec
from taxonomy.notation import Call, Layers, Literal, Node, Operation, Repeat

# Widths inside components that grow with the model where they are numbers; heads are apart.
_WIDTHS = ("d_ff", "kv_rank", "query_rank")
_MULTIPLE = 8
_ROUNDS = 12


def depth(ladder: Sequence[tuple[int, int]]) -> Callable[[int], int]:
    """How many layers a width has in the shape of a ladder of (d_model, layers): straight lines of logarithms, also beyond it."""
    by_width: dict[int, list[int]] = {}
    for width, layers in ladder:
        by_width.setdefault(width, []).append(layers)
    widths = sorted(by_width)
    x, y = np.log(widths), np.log([np.mean(by_width[width]) for width in widths])
    # One width says nothing of others: as deep as it is wide then.
    slope = np.polyfit(x, y, 1)[0] if len(widths) > 1 else 1.0

    def layers(width: int) -> int:
        at = math.log(width)
        beyond = slope * (at - min(max(at, x[0]), x[-1]))
        return max(1, round(math.exp(float(np.interp(at, x, y)) + beyond)))

    return layers


def nearest(
    section: Mapping[str, Any], layers: Callable[[int], int], params: float, count: Callable[[Mapping], int]
) -> dict[str, Any]:
    """The shape of `section` whose count is nearest to `params`, as deep as its width has it."""
    step = _step(section)

    @functools.cache
    def distance(times: int) -> float:
        return math.log(count(resized(section, times * step, layers(times * step))) / params)

    # Counts grow as the square or the cube of the width; then the neighbours.
    times = max(1, round(section["d_model"] / step))
    for _ in range(_ROUNDS):
        nearer = max(1, round(times * math.exp(-distance(times) / 3)))
        if nearer == times:
            break
        times = nearer
    best = min((max(1, times - 1), times, times + 1), key=lambda one: abs(distance(one)))
    return resized(section, best * step, layers(best * step))


def resized(section: Mapping[str, Any], d_model: int, layers: int) -> dict[str, Any]:
    """A `model` section with another width and depth, all stacks together. d_model must be a multiple of `_step`."""
    ratio, stacks = d_model / section["d_model"], spec.model(dict(section)).stacks
    changed: dict[str, Any] = {key: value for key, value in section.items()}
    for key, value in section.items():
        if key == "blocks":
            changed[key] = {name: _rewritten(text, ratio) for name, text in value.items()}
        elif isinstance(value, str) and key not in stacks:
            changed[key] = _rewritten(value, ratio)
    total = sum(map(len, stacks.values()))
    deepened = {name: str(_deepened(stack, layers * len(stack) / total)) for name, stack in stacks.items()}
    return changed | {"d_model": d_model} | deepened


def _step(section: Mapping[str, Any]) -> int:
    """What a width must be a multiple of, so that every number of heads grows to a whole number."""
    heads: list[int] = []

    def note(call: Call) -> Call:
        heads.extend(value.value for name, value in call.keywords if name == "heads" and isinstance(value, Literal))
        return call

    for text in [*section.values(), *section.get("blocks", {}).values()]:
        if isinstance(text, str):
            _walked(notation.parse(text), note)
    width = section["d_model"]
    return math.lcm(width // math.gcd(width, *heads), 2)


def _rewritten(text: str, ratio: float) -> str:
    before = notation.parse(text)
    after = _walked(before, functools.partial(_scaled, ratio=ratio))
    return text if after == before else notation.show(after)


def _walked(node: Node, change: Callable[[Call], Call]) -> Node:
    match node:
        case Call():
            positional = tuple(_walked(one, change) for one in node.positional)
            keywords = tuple((name, _walked(one, change)) for name, one in node.keywords)
            return change(Call(node.identifier, positional, keywords))
        case Operation():
            return Operation(node.operator, _walked(node.left, change), _walked(node.right, change))
        case Literal(value=tuple() as items):
            return Literal(tuple(_walked(one, change) for one in items))
    return node


def _scaled(call: Call, ratio: float) -> Call:
    given = {name: value.value for name, value in call.keywords if isinstance(value, Literal) and type(value.value) is int}
    new = {name: max(_MULTIPLE, round(given[name] * ratio / _MULTIPLE) * _MULTIPLE) for name in _WIDTHS if name in given}
    if "heads" in given:
        new["heads"] = max(1, round(given["heads"] * ratio))
        if given.get("kv_heads", 1) > 1:
            wanted = max(1, round(given["kv_heads"] * ratio))
            new["kv_heads"] = max(one for one in range(1, wanted + 1) if new["heads"] % one == 0)
    return Call(call.identifier, call.positional, tuple((n, Literal(new[n]) if n in new else v) for n, v in call.keywords))


def _deepened(stack: Layers, layers: float) -> Layers:
    """The stack with its longest repeat as long as it takes to have so many layers."""
    items = stack.items if any(isinstance(one, Repeat) for one in stack.items) else (Repeat(1, stack),)
    place = max(range(len(items)), key=lambda at: items[at].count * len(items[at].body) if isinstance(items[at], Repeat) else 0)
    rest = sum(1 if isinstance(one, str) else one.count * len(one.body) for at, one in enumerate(items) if at != place)
    body = items[place].body
    count = max(1, round((layers - rest) / len(body)))
    return Layers((*items[:place], Repeat(count, body), *items[place + 1 :]))
