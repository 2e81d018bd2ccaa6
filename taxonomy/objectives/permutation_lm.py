"""Tokens predicted in a random order."""

import dataclasses

import numpy as np

from taxonomy.objectives import spans
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, ints
from taxonomy.registry import component


@component("permutation_lm", kind="objective", paper="Yang et al. 2019, arXiv:1906.08237, sections 2.2 and 2.3")
@dataclasses.dataclass(frozen=True)
class PermutationLM(Objective):
    """Predict one token in `partial`, in a random order, each in its place from the others and from those predicted before it.

    The tokens predicted are spans of 1 to `max_span` tokens at random places. `order` is 0 for the tokens that are only read, which
    all see each other, and 1, 2, ... for the others: one by one at random or, with `whole_spans`, span by span at random and from
    left to right within. Documents of a window are one text.
    """

    partial: int = 6
    max_span: int = 5
    whole_spans: bool = False

    structures = frozenset({"encoder"})
    gives = frozenset({"order"})

    def check(self) -> None:
        if self.partial < 1 or self.max_span < 1:
            raise ValueError(f"partial={self.partial} and max_span={self.max_span} must be at least 1")

    def needs(self, lengths: Lengths) -> int:
        return lengths.context

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        count = max(1, len(tokens_N) // self.partial)
        # The last was cut to fit, so they are shuffled.
        lengths_S = generator.permutation(spans.lengths_up_to(count, lambda: generator.integers(1, self.max_span + 1)))
        starts_S = spans.place(lengths_S, len(tokens_N), generator)
        predicted_N = spans.inside(starts_S, lengths_S, len(tokens_N))
        order_N = np.zeros(len(tokens_N), np.int32)
        order_N[predicted_N] = self._order(lengths_S, generator)
        return Example(tokens_N, tokens_N, predicted_N.astype(np.float32), order=ints(order_N))

    def _order(self, lengths_S: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """From 1 to the number of tokens predicted, for each of them in order of place."""
        if not self.whole_spans:
            return generator.permutation(lengths_S.sum()) + 1
        turn_S = generator.permutation(len(lengths_S))
        earlier_S = np.array([lengths_S[turn_S < turn].sum() for turn in turn_S])
        return np.concatenate([first + np.arange(1, n + 1) for first, n in zip(earlier_S, lengths_S, strict=True)])
