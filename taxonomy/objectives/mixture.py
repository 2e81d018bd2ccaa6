"""One of several objectives, drawn for each example."""

import abc
import dataclasses
import functools

import numpy as np

from taxonomy import weights
from taxonomy.objectives.mode import Mode
from taxonomy.objectives.objective import Example, Lengths, Objective, Part, Specials, instantiate, name
from taxonomy.objectives.prefix_lm import PrefixLM
from taxonomy.objectives.span_corruption import SpanCorruption
from taxonomy.registry import Component, component


class Choice(Objective):
    """Draws one objective for each example.

    A window is as long as the longest that any of them takes; one that takes less is given a random stretch of it, so that over
    several epochs every token is used.
    """

    @property
    @abc.abstractmethod
    def choices(self) -> tuple[Objective, ...]:
        """The objectives drawn from."""

    @property
    def chances(self) -> np.ndarray:
        """How likely each is, float64 [choices]."""
        return np.full(len(self.choices), 1 / len(self.choices))

    @property
    def structures(self) -> frozenset[str]:
        return frozenset.intersection(*(o.structures for o in self.choices))

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"part"}).union(*(o.gives for o in self.choices))

    @property
    def overlap(self) -> int:
        return min(o.overlap for o in self.choices)

    @property
    def unit(self) -> str:
        return self.choices[0].unit

    @property
    def coordinates(self) -> int:
        return max(o.coordinates for o in self.choices)

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mark for o in self.choices for mark in o.marks))

    def needs(self, lengths: Lengths) -> int:
        return max(o.needs(lengths) for o in self.choices)

    def sentinels(self, lengths: Lengths) -> int:
        return max(o.sentinels(lengths) for o in self.choices)

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        part = int(generator.choice(len(self.choices), p=self.chances))
        objective = self.choices[part]
        spare = len(tokens_N) - objective.needs(lengths)
        if spare > 0 and objective.unit == "window":
            first = generator.integers(spare + 1)
            tokens_N = tokens_N[first : first + len(tokens_N) - spare]
        return dataclasses.replace(objective.example(tokens_N, generator, specials, lengths), part=part)


@component("mixture", kind="objective", paper="Raffel et al. 2019, arXiv:1910.10683, section 3.5.2")
@dataclasses.dataclass(frozen=True)
class Mixture(Choice):
    """One of several objectives for each example, drawn in proportion to `weights` (equal where none are given)."""

    parts: tuple[Part, ...]
    weights: tuple[float, ...] = ()

    def check(self) -> None:
        weights.check(self.parts, self.weights, "objective", "mixture(causal, span_corruption, weights=(9, 1))")
        units = {objective.unit for objective in self.choices}
        if len(units) > 1:
            raise ValueError("objectives made of windows and of whole documents cannot be mixed")

    @functools.cached_property
    def choices(self) -> tuple[Objective, ...]:
        return tuple(map(instantiate, self.parts))

    @property
    def chances(self) -> np.ndarray:
        return weights.shares(self.parts, self.weights)

    @property
    def labels(self) -> tuple[str, ...]:
        return weights.labels(
            [part if isinstance(part, Component) else Component("objective", name(part), ()) for part in self.parts]
        )


@component("denoisers", kind="objective", paper="Tay et al. 2022, arXiv:2205.05131, section 3.1 and Table 1")
@dataclasses.dataclass(frozen=True)
class Denoisers(Choice):
    """Seven denoisers in equal parts: regular (R), sequential (S) and extreme (X), each named to the model unless `modes` is off.

    R: spans of 3 and 8 tokens, 15% of the text. S: a prefix LM that predicts 25%. X: spans of 3, 8 and 64 at 50%, of 64 at 15%.
    """

    modes: bool = True

    @functools.cached_property
    def choices(self) -> tuple[Objective, ...]:
        pairs = [(token, objective) for token, objectives in _DENOISERS.items() for objective in objectives]
        return tuple(Mode(objective, token) if self.modes else objective for token, objective in pairs)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"{token}{i}" for token, objectives in _DENOISERS.items() for i in range(1, len(objectives) + 1))


_DENOISERS = {
    "R": (SpanCorruption(0.15, 3.0), SpanCorruption(0.15, 8.0)),
    "S": (PrefixLM(0.25),),
    "X": (SpanCorruption(0.5, 3.0), SpanCorruption(0.5, 8.0), SpanCorruption(0.15, 64.0), SpanCorruption(0.5, 64.0)),
}
