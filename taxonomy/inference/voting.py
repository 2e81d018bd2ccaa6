"""Self-consistency: many ways of reasoning are drawn, and the answer that most of them reach counts.

Wang et al. 2022, arXiv:2203.11171, section 2.
"""

import collections
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Vote(NamedTuple):
    """The answer of most texts, None where none has one; the share of all texts that have it; how many have each."""

    answer: str | None
    share: float
    counts: dict[str, int]


def last_number(text: str) -> str | None:
    """The last number of a text, without commas between its digits and zeros behind its fraction."""
    found = NUMBER.findall(text)
    if not found:
        return None
    number = found[-1].replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def after(marker: str) -> Callable[[str], str | None]:
    """Takes from a text what stands behind the last `marker`, such as "The answer is", up to the end of the line or sentence."""

    def extract(text: str) -> str | None:
        _, found, rest = text.rpartition(marker)
        line = rest.strip().partition("\n")[0].strip().removesuffix(".")
        return (line or None) if found else None

    return extract


def majority(texts: Iterable[str], extract: Callable[[str], str | None] = last_number) -> Vote:
    """The most common answer of some texts; of equally common ones the first."""
    answers = [extract(text) for text in texts]
    counts = collections.Counter(answer for answer in answers if answer is not None)
    if not counts:
        return Vote(None, 0.0, {})
    best, count = counts.most_common(1)[0]
    return Vote(best, count / len(answers), dict(counts))
