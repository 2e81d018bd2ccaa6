"""Where a text ends: before the first of some strings."""

from collections.abc import Sequence

from taxonomy.errors import UserError

# What stands for a character of which some bytes are still to come.
_INCOMPLETE = "\ufffd"


def check(stops: Sequence[str]) -> tuple[str, ...]:
    """The strings. Raises UserError on an empty one."""
    if isinstance(stops, str):
        raise UserError(f"stop: takes several strings, such as [{stops!r}]")
    for i, stop in enumerate(stops):
        if not stop:
            raise UserError(f"stop[{i}]: an empty string ends every text before it begins")
    return tuple(stops)


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before a stop string in it, and whether there is one.

    Of several the one that ends first counts, so that where a text ends does not depend on how much of it comes at a time.
    """
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(ends)[1]], True) if ends else (text, False)


def settled(text: str, stops: Sequence[str]) -> str:
    """What will stay of a text that goes on: not an incomplete character at its end, nor the beginning of a stop string."""
    text = text.rstrip(_INCOMPLETE)
    begun = (n for stop in stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n]))
    return text[: len(text) - max(begun, default=0)]
