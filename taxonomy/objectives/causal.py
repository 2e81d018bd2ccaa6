"""Next-token prediction."""

import dataclasses

import numpy as np

from taxonomy.data.pipeline import split_window
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials
from taxonomy.registry import component


@component("causal", kind="objective", paper="Shannon 1951, Prediction and Entropy of Printed English; Radford et al. 2018")
@dataclasses.dataclass(frozen=True)
class Causal(Objective):
    """Predict every token from those before it in its document; several documents share a window without seeing each other."""

    structures = frozenset({"decoder", "prefix-decoder"})
    overlap = 1

    def needs(self, lengths: Lengths) -> int:
        return lengths.context + 1

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        row = {name: array[0] for name, array in split_window(tokens_N[None], specials.start).items()}
        return Example(weights=np.ones(len(tokens_N) - 1, np.float32), **row)
