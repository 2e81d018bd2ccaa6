"""Tokens that say how good the text behind them is."""

import dataclasses
import functools
from typing import Literal

import numpy as np

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Example, Lengths, Objective, Part, Specials, Wrapper, instantiate
from taxonomy.registry import component


@component("control_tokens", kind="objective", paper="Korbak et al. 2023, arXiv:2302.08582, section 2 (conditional training)")
@dataclasses.dataclass(frozen=True)
class ControlTokens(Wrapper):
    """Another objective on a text with a token "good" or "bad" before every sentence, every document or the window (`each`).

    A stretch of text is good when `Specials.score` gives it at least `threshold`. A share `drop` of the tokens is left out, so that
    the model also learns texts without them. The token stands behind the one that begins a document. With sentences and documents,
    the end of the window makes room for the tokens added.
    """

    objective: Part
    threshold: float
    each: Literal["sentence", "document", "window"] = "sentence"
    drop: float = 0.01

    def check(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop={self.drop} must be a share from 0 to 1")

    @functools.cached_property
    def inner(self) -> Objective:
        return instantiate(self.objective)

    @property
    def marks(self) -> tuple[str, ...]:
        return ("good", "bad", *self.inner.marks)

    def needs(self, lengths: Lengths) -> int:
        return self.inner.needs(lengths) - (self.each == "window")

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        controlled = self._controlled(tokens_N, generator, specials)
        if self.unit == "window":
            controlled = controlled[: self.inner.needs(lengths)]
        return self.inner.example(controlled, generator, specials, lengths)

    def _controlled(self, tokens_N: np.ndarray, generator: np.random.Generator, specials: Specials) -> np.ndarray:
        """The text with the tokens that say how good it is, int32 [N + what was added]."""
        if specials.score is None:
            raise UserError("objective: control_tokens needs a function that scores texts")
        begins_N = np.arange(len(tokens_N)) == 0
        if self.each != "window":
            begins_N |= tokens_N == specials.start
        if self.each == "sentence":
            if not specials.sentence_ends:
                raise UserError("objective: control_tokens needs to know which tokens end a sentence; or use each='document'")
            begins_N[1:] |= np.isin(tokens_N[:-1], specials.sentence_ends)
        begins = np.flatnonzero(begins_N)
        begins = begins + (tokens_N[begins] == specials.start)
        stretches = [(first, stop) for first, stop in zip(begins, [*begins[1:], len(tokens_N)], strict=True)]
        places, marks = [], []
        for (first, stop), draw in zip(stretches, generator.random(len(stretches)), strict=True):
            text = tokens_N[first:stop]
            text = text[text != specials.start]
            if len(text) and draw >= self.drop:
                places.append(first)
                marks.append(specials.mark("good" if specials.score(text) >= self.threshold else "bad"))
        return np.insert(tokens_N, np.array(places, int), marks).astype(np.int32)
