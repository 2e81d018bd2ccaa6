"""Spans of a text left out and predicted."""

import dataclasses

import numpy as np

from taxonomy.objectives import spans
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, from_inputs_to_targets, largest
from taxonomy.registry import component


@component("span_corruption", kind="objective", paper="Raffel et al. 2019, arXiv:1910.10683, section 3.1.4")
@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
    """Leave out random spans, each replaced by a sentinel of its own, and predict them, each after its sentinel.

    A share `density` of the tokens is left out, in spans of `mean_span` tokens on average. Kept and left-out stretches alternate,
    beginning with a kept one and ending with a left-out one, and are of random lengths. `end` ends inputs and targets, as in the
    published code; the figure of the paper has one more sentinel there. Documents of a window are one text.
    """

    density: float = 0.15
    mean_span: float = 3.0

    structures = frozenset({"decoder", "prefix-decoder", "encoder-decoder"})
    gives = frozenset({"prefix"})

    def check(self) -> None:
        if not 0 < self.density < 1:
            raise ValueError(f"density={self.density} must be between 0 and 1")
        if self.mean_span < 1:
            raise ValueError(f"mean_span={self.mean_span} must be at least 1")

    def needs(self, lengths: Lengths) -> int:
        def fits(tokens: int) -> bool:
            noise, count = self._counts(tokens)
            inputs, targets = tokens - noise + count + 1, noise + count + 1
            if lengths.inputs is None:
                return inputs + targets - 1 <= lengths.context
            return inputs <= lengths.inputs and targets <= lengths.context

        return largest(fits, self, lengths)

    def sentinels(self, lengths: Lengths) -> int:
        return self._counts(self.needs(lengths))[1]

    def _counts(self, tokens: int) -> tuple[int, int]:
        """How many of so many tokens are left out, and in how many spans."""
        noise = min(max(round(tokens * self.density), 1), tokens - 1)
        return noise, min(max(round(noise / self.mean_span), 1), noise, tokens - noise)

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        noise, count = self._counts(len(tokens_N))
        left_out_S = spans.segmentation(noise, count, generator)
        kept_S = spans.segmentation(len(tokens_N) - noise, count, generator)
        starts_S = np.cumsum(kept_S + left_out_S) - left_out_S
        sentinels_S = specials.sentinel(count - 1) + np.arange(count)[::-1]
        inputs = np.append(spans.replaced(tokens_N, starts_S, left_out_S, sentinels_S), specials.ending)
        targets = np.append(spans.collected(tokens_N, starts_S, left_out_S, sentinels_S), specials.ending)
        return from_inputs_to_targets(inputs, targets, specials, lengths)
