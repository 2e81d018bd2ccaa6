"""Pairs of texts: the second from the first."""

import dataclasses

import numpy as np

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, from_inputs_to_targets
from taxonomy.registry import component


@component("pairs", kind="objective", paper="Sutskever et al. 2014, arXiv:1409.3215; Vaswani et al. 2017, arXiv:1706.03762")
@dataclasses.dataclass(frozen=True)
class Pairs(Objective):
    """Predict what stands behind a document's first separator from what stands before it.

    `end` ends both halves for an encoder and a decoder; a single stack reads the document as it is, separator included. A half too
    long for its place loses its end. Short pairs share a row when `packed`, each a text of its own.
    """

    packed: bool = True

    structures = frozenset({"decoder", "prefix-decoder", "encoder-decoder"})
    gives = frozenset({"prefix"})
    unit = "document"

    def needs(self, lengths: Lengths) -> int:
        if lengths.inputs is None:
            return lengths.context
        # The token that begins the document and the separator leave, two that end the halves come.
        return lengths.inputs + lengths.context

    def sizes(self, tokens_N: np.ndarray, bounds_D2: np.ndarray, specials: Specials, lengths: Lengths) -> np.ndarray | None:
        if not self.packed:
            return None
        begins_D, stops_D = bounds_D2.T
        if lengths.inputs is None:
            return np.stack([np.zeros_like(begins_D), np.minimum(stops_D - begins_D, lengths.context)], axis=1)
        separators = np.append(np.flatnonzero(np.asarray(tokens_N) == specials.separator), len(tokens_N))
        # A document without one is an error when its turn comes.
        cuts_D = np.minimum(separators[np.searchsorted(separators, begins_D)], stops_D - 1)
        first_D, second_D = cuts_D - begins_D - (tokens_N[begins_D] == specials.start), stops_D - cuts_D - 1
        return np.stack([np.minimum(first_D + 1, lengths.inputs), np.minimum(second_D + 1, lengths.context)], axis=1)

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        separators = np.flatnonzero(tokens_N == specials.separator) if specials.separator is not None else []
        if not len(separators):
            raise UserError(f"objective: pairs needs a separator (id {specials.separator}) in every document; one has none")
        begun = int(tokens_N[0] == specials.start)
        first, second = tokens_N[begun : separators[0]], tokens_N[separators[0] + 1 :]
        if lengths.inputs is not None:
            inputs = np.append(first[: lengths.inputs - 1], specials.ending)
            targets = np.append(second[: lengths.context - 1], specials.ending)
            return from_inputs_to_targets(inputs, targets, specials, lengths)
        # The second half comes first where there is no room for both, but leaves some for the first.
        room = lengths.context - begun - 1
        second = second[: max(room - len(first), room // 2)]
        inputs = np.concatenate([tokens_N[:begun], first[: room - len(second)], [specials.separator]])
        return from_inputs_to_targets(inputs, np.append(second, specials.ending), specials, lengths)
