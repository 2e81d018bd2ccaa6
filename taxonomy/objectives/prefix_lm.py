"""Prediction of the rest of a text from its beginning."""

import dataclasses

import numpy as np

from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, from_inputs_to_targets, largest
from taxonomy.registry import component


@component(
    "prefix_lm", kind="objective", paper="Liu et al. 2018, arXiv:1801.10198; Raffel et al. 2019, arXiv:1910.10683, section 3.2"
)
@dataclasses.dataclass(frozen=True)
class PrefixLM(Objective):
    """Split the text at a random place, read the first part in both directions and predict the second.

    `rate` is the mean share of tokens predicted: the split is uniform over the last 2 * rate of the text, so over all of it by
    default. Documents of a window are one text.
    """

    rate: float = 0.5

    structures = frozenset({"decoder", "prefix-decoder", "encoder-decoder"})
    gives = frozenset({"prefix"})
    overlap = 1

    def check(self) -> None:
        if not 0 < self.rate <= 0.5:
            raise ValueError(f"rate={self.rate} must be above 0 and at most 0.5")

    def needs(self, lengths: Lengths) -> int:
        if lengths.inputs is None:
            return lengths.context + 1
        # However the split falls, both parts must fit.
        fits = lambda n: n - 1 <= lengths.inputs and n - self._shortest(n) <= lengths.context  # noqa: E731
        return largest(fits, self, lengths)

    def _shortest(self, length: int) -> int:
        """Tokens of the shortest first part of a text."""
        return max(1, round((1 - 2 * self.rate) * (length - 1)))

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        split = generator.integers(self._shortest(len(tokens_N)), len(tokens_N))
        return from_inputs_to_targets(tokens_N[:split], tokens_N[split:], specials, lengths)
