"""A damaged text repaired in full."""

import dataclasses

import numpy as np

from taxonomy.errors import UserError
from taxonomy.objectives import spans
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, from_inputs_to_targets, largest
from taxonomy.registry import component


@component("text_infilling", kind="objective", paper="Lewis et al. 2019, arXiv:1910.13461, section 2.2")
@dataclasses.dataclass(frozen=True)
class TextInfilling(Objective):
    """Shuffle the sentences, replace spans by one mask each, and predict the whole original.

    A share `rate` of the tokens is hidden in spans of Poisson(`mean_span`) tokens; a span of none inserts a mask. A sentence ends
    with one of `Specials.sentence_ends`; `shuffle` off keeps the order. `end` ends inputs and targets. Documents of a window are
    one text.
    """

    rate: float = 0.3
    mean_span: float = 3.0
    shuffle: bool = True

    structures = frozenset({"encoder-decoder"})
    marks = ("mask",)

    def check(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate} must be between 0 and 1")
        if not self.mean_span > 0:
            raise ValueError(f"mean_span={self.mean_span} must be above 0")

    def needs(self, lengths: Lengths) -> int:
        return largest(lambda tokens: tokens + 1 <= min(lengths.inputs, lengths.context), self, lengths)

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        inputs_N = self._shuffled(tokens_N, generator, specials) if self.shuffle else tokens_N
        hidden = max(1, round(self.rate * len(tokens_N)))
        lengths_S = spans.lengths_up_to(hidden, lambda: generator.poisson(self.mean_span))
        # No more masks than tokens hidden, so that the inputs never outgrow the text. A matter of form: Poisson(3) gives 0 in 5%.
        lengths_S = np.sort(lengths_S)[::-1][:hidden]
        lengths_S = generator.permutation(lengths_S)
        starts_S = spans.place(lengths_S, len(tokens_N), generator)
        inputs = spans.replaced(inputs_N, starts_S, lengths_S, np.full(len(lengths_S), specials.mark("mask")))
        ending = [specials.ending]
        return from_inputs_to_targets(np.append(inputs, ending), np.append(tokens_N, ending), specials, lengths)

    def _shuffled(self, tokens_N: np.ndarray, generator: np.random.Generator, specials: Specials) -> np.ndarray:
        if not specials.sentence_ends:
            raise UserError("objective: text_infilling needs to know which tokens end a sentence; use shuffle=False without them")
        sentences = np.split(tokens_N, np.flatnonzero(np.isin(tokens_N[:-1], specials.sentence_ends)) + 1)
        return np.concatenate([sentences[i] for i in generator.permutation(len(sentences))])
