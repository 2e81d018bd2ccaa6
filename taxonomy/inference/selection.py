"""Which of many programs to submit: those that behave alike count as one, and what most of them do is likely right."""

from collections.abc import Hashable, Sequence

import numpy as np

from taxonomy.inference.sandbox import Outcome

MOST_CLUSTERED = 8192  # programs: Li et al. 2022, arXiv:2203.07814, appendix C.4


def behaviour(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """What a program does, to compare it by: the values of its calls; of a call without one the kind and the type of error."""
    return tuple(one.text if one.kind == "value" else f"<{one.kind} {one.text.partition(':')[0]}>" for one in outcomes)


def clusters(behaviours: Sequence[Hashable | None]) -> list[list[int]]:
    """The places of equal behaviours, largest group first, of equal ones the earlier; None is in no group."""
    groups: dict[Hashable, list[int]] = {}
    for place, one in enumerate(behaviours):
        if one is not None:
            groups.setdefault(one, []).append(place)
    return sorted(groups.values(), key=len, reverse=True)


def chosen(groups: Sequence[Sequence[int]], submissions: int, generator: np.random.Generator) -> list[int]:
    """One of each group from the largest to the smallest, then again from those that have more, up to so many.

    Li et al. 2022, arXiv:2203.07814, section 4.6.
    """
    shuffled = [generator.permutation(group).tolist() for group in groups]
    longest = max(map(len, shuffled), default=0)
    rounds = [group[turn] for turn in range(min(longest, submissions)) for group in shuffled if turn < len(group)]
    return rounds[:submissions]
