"""Documents with their middle moved to the end, so that a decoder learns to fill gaps."""

import dataclasses
from typing import Literal

import numpy as np

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, ints
from taxonomy.registry import component


@component("fill_in_the_middle", kind="objective", paper="Bavarian et al. 2022, arXiv:2207.14255, section 3")
@dataclasses.dataclass(frozen=True)
class FillInTheMiddle(Objective):
    """Cut a share `rate` of the documents in three at random and predict prefix, suffix, middle, or (a share `spm`) suffix first.

    Orders, with a token before each part: PSM is <prefix> p <suffix> s <middle> m. SPM is <prefix> <suffix> s <middle> p m, the
    form that shares what it learns with PSM ("joint"), or <suffix> s <prefix> p <middle> m ("plain"). A middle is followed by
    `end`, or else by the start of the next document. Every token is predicted.

    Documents are cut as they lie in the window ("context level", section 3.2), so a middle is never cut off; the end of the last
    document makes room for the tokens added. They are cut between any two characters where `Specials` can decode and encode and
    the text survives it, and else between tokens.
    """

    rate: float = 0.5
    spm: float = 0.5
    spm_order: Literal["joint", "plain"] = "joint"

    structures = frozenset({"decoder", "prefix-decoder"})
    marks = ("prefix", "suffix", "middle")
    overlap = 1

    def check(self) -> None:
        if not (0 <= self.rate <= 1 and 0 <= self.spm <= 1):
            raise ValueError(f"rate={self.rate} and spm={self.spm} must be shares from 0 to 1")

    def needs(self, lengths: Lengths) -> int:
        if lengths.context < 8:
            raise UserError(f"objective: fill_in_the_middle cannot make an example of {lengths}: at least 8 tokens are needed")
        return lengths.context + 1

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        starts = tokens_N == specials.start
        # Drawn once for every document, so that what is cut off the last changes nothing in the others.
        draws = generator.random((int(starts[1:].sum()) + 1, 4))
        keep = len(tokens_N)
        pieces = self._pieces(tokens_N, draws, specials)
        while (excess := sum(map(len, pieces)) - (lengths.context + 1)) > 0:
            keep -= excess
            pieces = self._pieces(tokens_N[:keep], draws, specials)
        whole = np.concatenate(pieces)
        segments = np.repeat(np.arange(1, len(pieces) + 1), [len(piece) for piece in pieces])[:-1]
        positions = np.concatenate([np.arange(len(piece)) for piece in pieces])[:-1]
        weights = np.ones(len(whole) - 1, np.float32)
        return Example(ints(whole[:-1]), ints(whole[1:]), weights, positions=ints(positions), segments=ints(segments))

    def _pieces(self, tokens_N: np.ndarray, draws: np.ndarray, specials: Specials) -> list[np.ndarray]:
        """The documents of a window, each as it is to be read."""
        documents = np.split(tokens_N, np.flatnonzero(tokens_N[1:] == specials.start) + 1)
        last = len(documents) - 1
        return [self._piece(d, draws[i], specials, i == last) for i, d in enumerate(documents)]

    def _piece(self, document: np.ndarray, draw: np.ndarray, specials: Specials, last: bool) -> np.ndarray:
        begun = int(document[0] == specials.start)
        body = document[begun:]
        if not len(body) or draw[0] >= self.rate:
            return document
        before, middle, after = _cut(body, draw[2:], specials)
        question = self.question(before, after, specials, draw[1] < self.spm)
        end = [specials.ending] if last or specials.end is not None else []
        return np.concatenate([document[:begun], question, middle, end]).astype(np.int32)

    def question(self, before: np.ndarray, after: np.ndarray, specials: Specials, suffix_first: bool) -> np.ndarray:
        """The tokens before a middle, int32 [n]: what stands before and after it, in order SPM or PSM. `specials` has the marks."""
        prefix, suffix, to_fill = ([specials.mark(mark)] for mark in self.marks)
        if not suffix_first:
            parts = [prefix, before, suffix, after, to_fill]
        elif self.spm_order == "joint":
            parts = [prefix, suffix, after, to_fill, before]
        else:
            parts = [suffix, after, prefix, before, to_fill]
        return np.concatenate(parts).astype(np.int32)


def _cut(body: np.ndarray, draw: np.ndarray, specials: Specials) -> list[np.ndarray]:
    """Three parts of a document, cut at two places that two numbers in [0, 1) say."""
    if specials.decode is not None and specials.encode is not None:
        text = specials.decode(body)
        # A window may cut a character in two, and not every tokenizer is lossless.
        if np.array_equal(specials.encode(text), body):
            first, second = sorted((draw * (len(text) + 1)).astype(int))
            return [specials.encode(part) for part in (text[:first], text[first:second], text[second:])]
    return np.split(body, sorted((draw * (len(body) + 1)).astype(int)))
