"""Spans of a text predicted behind it, each token by token."""

import bisect
import dataclasses

import numpy as np

from taxonomy.errors import UserError
from taxonomy.objectives import spans
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, ints
from taxonomy.registry import component


@component(
    "blank_infilling", kind="objective", paper="Du et al. 2021, arXiv:2103.10360, section 2.1; Zeng et al. 2022, arXiv:2210.02414"
)
@dataclasses.dataclass(frozen=True)
class BlankInfilling(Objective):
    """Replace spans by masks and predict them behind the text, in random order, from the text in both directions and each other.

    In a share `short` of the examples, a share `rate` of the tokens is replaced in spans of Poisson(`mean_span`) tokens, at least
    one, and one mask stands for each. In the others the rest of the text from a random place on, at least `least_suffix` of it, is
    replaced by a mask of another kind. A span is read behind a token that starts it and predicted up to one that ends it. Where
    many short spans leave no room for all of the text, its end is cut off. Documents of a window are one text.

    Positions are counted through, or with `two_dimensional` are pairs: the place in the text with masks (for a span, that of its
    mask), and the place in the span from 1 (0 for the text).
    """

    short: float = 0.3
    rate: float = 0.15
    mean_span: float = 3.0
    least_suffix: float = 0.2
    two_dimensional: bool = False

    structures = frozenset({"prefix-decoder"})
    gives = frozenset({"prefix"})
    marks = ("mask", "mask of the rest", "start of a span", "end of a span")

    @property
    def coordinates(self) -> int:
        return 2 if self.two_dimensional else 1

    def check(self) -> None:
        if not 0 <= self.short <= 1:
            raise ValueError(f"short={self.short} must be a share from 0 to 1")
        if not 0 < self.rate <= 0.5:
            raise ValueError(f"rate={self.rate} must be above 0 and at most 0.5")
        if not self.mean_span > 0:
            raise ValueError(f"mean_span={self.mean_span} must be above 0")
        if not 0 <= self.least_suffix < 1:
            raise ValueError(f"least_suffix={self.least_suffix} must be at least 0 and below 1")

    def needs(self, lengths: Lengths) -> int:
        if lengths.context < 4:
            raise UserError(f"objective: blank_infilling cannot make an example of {lengths}: at least 4 tokens are needed")
        # One mask, and the token that starts its span.
        return lengths.context - 2

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        if generator.random() < self.short:
            tokens_N, starts_S, lengths_S = self._short_spans(tokens_N, generator, lengths)
            mask = specials.mark("mask")
        else:
            least = max(1, round(self.least_suffix * len(tokens_N)))
            lengths_S = generator.integers(least, len(tokens_N), size=1)
            starts_S = len(tokens_N) - lengths_S
            mask = specials.mark("mask of the rest")
        text = spans.replaced(tokens_N, starts_S, lengths_S, np.full(len(starts_S), mask))
        mask_place_S = starts_S - (np.cumsum(lengths_S) - lengths_S) + np.arange(len(starts_S))
        return self._arranged(tokens_N, text, starts_S, lengths_S, mask_place_S, generator.permutation(len(starts_S)), specials)

    def _short_spans(self, tokens_N, generator: np.random.Generator, lengths: Lengths):
        """As much of the text as there is room for, and where its spans start and how long they are."""

        def draw() -> int:
            while not (length := generator.poisson(self.mean_span)):
                pass
            return length

        drawn_S = spans.lengths_up_to(self._hidden(len(tokens_N)), draw)
        reach_S = np.cumsum(drawn_S)
        row = lambda size: size + 2 * (np.searchsorted(reach_S, self._hidden(size)) + 1)  # noqa: E731
        size = 2 + bisect.bisect_right(range(3, len(tokens_N) + 1), lengths.context, key=row)
        hidden = self._hidden(size)
        lengths_S = drawn_S[: np.searchsorted(reach_S, hidden) + 1].copy()
        lengths_S[-1] -= lengths_S.sum() - hidden
        lengths_S = generator.permutation(lengths_S)
        return tokens_N[:size], spans.place(lengths_S, size, generator, gap=1), lengths_S

    def _hidden(self, size: int) -> int:
        return max(1, round(self.rate * size))

    def _arranged(self, tokens_N, text, starts_S, lengths_S, mask_place_S, turns_S, specials: Specials) -> Example:
        first, last = specials.mark("start of a span"), specials.mark("end of a span")
        # What is read of the text predicts nothing: its targets have no weight.
        tokens, targets, weights = [text], [text], [np.zeros(len(text), np.float32)]
        places = [np.stack([np.arange(len(text)), np.zeros(len(text), int)], axis=1)]
        for s in turns_S:
            span = tokens_N[starts_S[s] : starts_S[s] + lengths_S[s]]
            tokens.append(np.append(first, span))
            targets.append(np.append(span, last))
            weights.append(np.ones(len(span) + 1, np.float32))
            places.append(np.stack([np.full(len(span) + 1, mask_place_S[s]), 1 + np.arange(len(span) + 1)], axis=1))
        tokens_T = ints(np.concatenate(tokens))
        return Example(
            tokens_T,
            ints(np.concatenate(targets)),
            np.concatenate(weights),
            prefix=np.arange(len(tokens_T)) < len(text),
            positions=ints(np.concatenate(places)) if self.two_dimensional else None,
        )
