"""Inputs for functions whose types nobody wrote down: values of simple kinds, and small changes to inputs that are known.

A call is a tuple of Python literals. All is drawn from a `random.Random`, so the same seed gives the same calls.
"""

import itertools
import random
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Call = tuple[Any, ...]

WORDS = (
    "",
    "a",
    "abc",
    "Hello world",
    "x=1",
    "a,b;c",
    "  two words ",
    "line one\nline two\n",
    "2024-02-29",
    "/usr/local/lib.py",
    "ÄÖ",
)
NUMBERS = (0, 1, 2, 3, 5, 7, 10, 12, 28, 100, 255, 1000, 1999, 2024, -1, -7)


def _number(generator: random.Random, words: Sequence[str]) -> int:
    return generator.choice((generator.choice(NUMBERS), generator.randrange(-20, 200)))


def _text(generator: random.Random, words: Sequence[str]) -> str:
    letters = "".join(generator.choices(string.ascii_letters + string.digits + " _-.,", k=generator.randrange(1, 12)))
    return generator.choice((*words, generator.choice(WORDS), letters))


def _real(generator: random.Random, words: Sequence[str]) -> float:
    return round(generator.uniform(-10, 10), 2)


def _several(one: Callable, kind: type) -> Callable:
    return lambda generator, words: kind([one(generator, words) for _ in range(generator.randrange(0, 6))])


KINDS: dict[str, Callable[[random.Random, Sequence[str]], Any]] = {
    "text": _text,
    "number": _number,
    "texts": _several(_text, list),
    "numbers": _several(_number, list),
    "bytes": lambda generator, words: _text(generator, words).encode(),
    "real": _real,
    "pairs": lambda generator, words: {_text(generator, words): _number(generator, words) for _ in range(3)},
    "tuple": _several(_number, tuple),
    "flag": lambda generator, words: generator.random() < 0.5,
    "none": lambda generator, words: None,
}


def drawn(kinds: Sequence[str], generator: random.Random, words: Sequence[str] = ()) -> Call:
    """A call with an argument of each kind; `words` are texts worth trying, such as those that the function mentions."""
    return tuple(KINDS[kind](generator, words) for kind in kinds)


def combinations(arguments: int) -> Iterator[tuple[str, ...]]:
    """All ways to choose the kinds of this many arguments."""
    return itertools.product(KINDS, repeat=arguments)


def mutated(call: Call, generator: random.Random) -> Call:
    """The call with one argument changed a little (Li et al. 2022, arXiv:2203.07814, section 3.2.1)."""
    if not call:
        return call
    place = generator.randrange(len(call))
    return (*call[:place], _changed(call[place], generator), *call[place + 1 :])


def _changed(value: Any, generator: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return generator.choice((value + 1, value - 1, value * 2, -value, value + generator.randrange(-10, 11)))
    if isinstance(value, float):
        return generator.choice((value + 1, -value, value / 2, round(value)))
    if isinstance(value, (str, bytes)):
        return _edited(value, generator)
    if isinstance(value, (list, tuple)):
        items = list(value)
        if items and generator.random() < 0.6:
            place = generator.randrange(len(items))
            items[place] = _changed(items[place], generator)
        else:
            items = _edited(items, generator)
        return type(value)(items)
    if isinstance(value, dict) and value:
        key = generator.choice(list(value))
        return {**value, key: _changed(value[key], generator)}
    return value


def _edited(items: Any, generator: random.Random) -> Any:
    """A text or a list with one place left out, doubled, swapped with the next, or, in a text, replaced by a letter."""
    if not len(items):
        return items + {str: "a", bytes: b"a"}.get(type(items), [0])
    place, way = generator.randrange(len(items)), generator.randrange(4)
    before, one, after = items[:place], items[place : place + 1], items[place + 1 :]
    if way == 0:
        return before + after
    if way == 1:
        return before + one + one + after
    if way == 2:
        return before + after[:1] + one + after[1:]
    letter = generator.choice(string.ascii_letters + string.digits + " ")
    return before + {str: letter, bytes: letter.encode()}.get(type(items), one) + after
