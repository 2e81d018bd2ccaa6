"""A token that tells a model which objective it is being trained with."""

import dataclasses
import functools

import numpy as np

from taxonomy.objectives.objective import Example, Lengths, Objective, Part, Specials, Wrapper, instantiate, ints
from taxonomy.registry import component


@component("mode", kind="objective", paper="Tay et al. 2022, arXiv:2205.05131, section 3.1.3")
@dataclasses.dataclass(frozen=True)
class Mode(Wrapper):
    """Another objective with a token in front that names the mode, so that a model can be asked for it later."""

    objective: Part
    token: str

    @functools.cached_property
    def inner(self) -> Objective:
        return instantiate(self.objective)

    marks = property(lambda self: (f"mode {self.token}", *self.inner.marks))

    def needs(self, lengths: Lengths) -> int:
        return self.inner.needs(_shorter(lengths))

    def sentinels(self, lengths: Lengths) -> int:
        return self.inner.sentinels(_shorter(lengths))

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        inner = self.inner.example(tokens_N, generator, specials, _shorter(lengths))
        return prepend(inner, specials.mark(f"mode {self.token}"))


def _shorter(lengths: Lengths) -> Lengths:
    """Room for one token less where the model reads first."""
    if lengths.inputs is None:
        return Lengths(lengths.context - 1)
    return Lengths(lengths.context, lengths.inputs - 1)


def prepend(example: Example, token: int) -> Example:
    """The example with one more token read first, by the encoder if there is one, and nothing more predicted."""

    def front(array, value, like=None):
        return None if array is None else np.concatenate([np.array([value], like or array.dtype), array])

    if example.inputs is not None:
        return dataclasses.replace(
            example,
            inputs=ints(front(example.inputs, token)),
            input_targets=front(example.input_targets, token),
            input_weights=front(example.input_weights, 0),
        )
    positions, segments = example.positions, example.segments
    if positions is not None:
        # Only the first text moves by a position; a second coordinate is counted from elsewhere.
        first = np.ones(len(positions), bool) if segments is None else segments == segments[0]
        moved = positions.copy()
        moved.reshape(len(positions), -1)[first, 0] += 1
        positions = np.concatenate([np.zeros((1, *positions.shape[1:]), np.int32), moved])
    return dataclasses.replace(
        example,
        tokens=front(example.tokens, token),
        targets=front(example.targets, example.tokens[0]),
        weights=front(example.weights, 0),
        prefix=front(example.prefix, True),
        positions=positions,
        segments=None if segments is None else front(segments, segments[0]),
        order=front(example.order, 0),
    )
