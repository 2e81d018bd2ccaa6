"""A text cut in two: a masked first part for the encoder, the second for the decoder."""

import dataclasses

import numpy as np

from taxonomy.objectives.masked_lm import MaskedLM
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, from_inputs_to_targets
from taxonomy.registry import component


@component("random_pivot", kind="objective", paper="Li et al. 2022, arXiv:2203.07814, section 4.2")
@dataclasses.dataclass(frozen=True)
class RandomPivot(Objective):
    """Cut the text at a random place; predict hidden tokens of the first part in the encoder and the second part in the decoder.

    What stands before the place and is too long for the encoder loses its beginning, what stands behind it its end. Tokens are
    hidden as the objective `masked_lm` does. Documents of a window are one text.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1

    structures = frozenset({"encoder-decoder"})
    gives = frozenset({"input_targets"})
    marks = ("mask",)

    def check(self) -> None:
        MaskedLM(self.rate, self.mask, self.random).check()

    def needs(self, lengths: Lengths) -> int:
        return lengths.inputs + lengths.context

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        pivot = generator.integers(1, len(tokens_N))
        before = tokens_N[max(0, pivot - lengths.inputs) : pivot]
        after = tokens_N[pivot : pivot + lengths.context]
        read, chosen = MaskedLM(self.rate, self.mask, self.random).hide(before, generator, specials)
        example = from_inputs_to_targets(read, after, specials, lengths)
        return dataclasses.replace(example, input_targets=before, input_weights=chosen.astype(np.float32))
