"""What an objective is: a pure function from tokens to one training example, seeded only by the generator it is handed."""

import abc
import dataclasses
from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar

import numpy as np

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.registry import Component

STRUCTURES = ("decoder", "prefix-decoder", "encoder", "encoder-decoder")

# An argument that takes another objective: its expression, or the object itself.
Part = Annotated[Component, ("objective",)]


@dataclasses.dataclass(frozen=True, eq=False)
class Specials:
    """The ids that stand for no text, and what else of the tokenizer an objective may need.

    start: begins a document. vocab: ids are handed out downwards from here, so the model's vocabulary, or less of it where the
    rest of its table is padding. used: ids the tokenizer uses; those from `used` to `vocab` are free. end: ends a sequence.
    first: what a decoder beside an encoder reads first. Both are `start` where None.

    separator: stands between the halves of a pair. sentence_ends: ids that end a sentence. word_starts: bool [>= used], the ids
    that begin a word. decode, encode: ids [n] to text and back. score: ids [n] to a number, more is better.

    marks: names of the ids reserved so far, see `reserve`.
    """

    start: int
    vocab: int
    used: int
    end: int | None = None
    first: int | None = None
    separator: int | None = None
    sentence_ends: tuple[int, ...] = ()
    word_starts: np.ndarray | None = None
    decode: Callable[[np.ndarray], str] | None = None
    encode: Callable[[str], np.ndarray] | None = None
    score: Callable[[np.ndarray], float] | None = None
    marks: tuple[str, ...] = ()

    @property
    def ending(self) -> int:
        """The id that ends a sequence."""
        return self.start if self.end is None else self.end

    @property
    def beginning(self) -> int:
        """The id that a decoder beside an encoder reads first."""
        return self.start if self.first is None else self.first

    def extra(self, k: int) -> int:
        """The k-th free id, counted down from the top (vocab - 1 - k). Raises UserError when the free ids do not suffice."""
        if self.vocab - 1 - k < self.used:
            raise UserError(
                f"objective: needs {k + 1} ids besides the {self.used} of the tokenizer, but only {max(0, self.vocab - self.used)} "
                f"of a vocabulary of {self.vocab} are free: use model.vocab of at least {self.used + k + 1}"
            )
        return self.vocab - 1 - k

    def reserve(self, names: Iterable[str]) -> "Specials":
        """The same with an id for each of these names, from the top; names that have one keep it. Sentinels come below."""
        return dataclasses.replace(self, marks=tuple(dict.fromkeys((*self.marks, *names))))

    def mark(self, name: str) -> int:
        """The id of a reserved name."""
        return self.extra(self.marks.index(name))

    def sentinel(self, k: int) -> int:
        """The id that stands for the k-th span left out."""
        return self.extra(len(self.marks) + k)


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens a row has room for: `context` in the decoder (or the only stack), `inputs` in the encoder, None without one."""

    context: int
    inputs: int | None = None


@dataclasses.dataclass
class Example:
    """One training example: int32 arrays [n], at most as long as the `Lengths`; float32 weights; None is absent.

    tokens [T] are read and targets [T] predicted, one for each, at weights [T]. positions: [T], or [T, 2] with a second
    coordinate; by default counted from 0. segments [T]: which of several texts, from 1; by default one. prefix [T], bool: tokens
    that all tokens of their text may see. order [T]: a token sees those of its own and of lower order; one of order above 0 is
    predicted from those of strictly lower order. inputs [I] are read by the encoder; input_positions and input_segments [I] are as
    those of the tokens, input_targets and input_weights [I] are losses there. detection [T]: weights of telling whether each token
    is the original once a generator has replaced those of weight above zero. part: which objective of a mixture made it.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    inputs: np.ndarray | None = None
    prefix: np.ndarray | None = None
    positions: np.ndarray | None = None
    segments: np.ndarray | None = None
    input_positions: np.ndarray | None = None
    input_segments: np.ndarray | None = None
    order: np.ndarray | None = None
    detection: np.ndarray | None = None
    input_targets: np.ndarray | None = None
    input_weights: np.ndarray | None = None
    part: int | None = None


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """Tokens in, one training example out.

    structures: what it can train. gives: which of an example's fields prefix, order, input_targets, detection and part it fills.
    overlap: tokens that consecutive windows share, 1 where the first token of a window is never predicted. unit: an example is
    made of a "window" of at most `needs` tokens, or of a whole "document", however long, whose end it may then cut off (`sizes`
    says whether several share a row). coordinates: numbers in a position. labels: names of what `Example.part` counts.
    """

    structures: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    overlap: ClassVar[int] = 0
    unit: ClassVar[str] = "window"
    coordinates: ClassVar[int] = 1
    marks: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def needs(self, lengths: Lengths) -> int:
        """Tokens one example takes, so that it fills the lengths as nearly as it can. Raises UserError for lengths too short."""

    def sentinels(self, lengths: Lengths) -> int:
        """Sentinel ids an example may have, besides the ids of `marks`."""
        return 0

    def extras(self, lengths: Lengths) -> int:
        """Ids an example may have that are not the tokenizer's."""
        return len(self.marks) + self.sentinels(lengths)

    def sizes(self, tokens_N: np.ndarray, bounds_D2: np.ndarray, specials: Specials, lengths: Lengths) -> np.ndarray | None:
        """What the example of each document takes of (inputs, context), int [D, 2], where examples share rows; otherwise None."""
        return None

    def example(self, tokens_N: np.ndarray, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        """An example made of 2 to `needs(lengths)` tokens. A pure function of its arguments and the generator's state."""
        tokens_N = np.asarray(tokens_N, np.int32)
        limit = self.needs(lengths)
        if len(tokens_N) < 2 or (self.unit == "window" and len(tokens_N) > limit):
            raise ValueError(f"{type(self).__name__}: an example takes 2 to {limit} tokens, got {len(tokens_N)}")
        return self._example(tokens_N, generator, specials.reserve(self.marks), lengths)

    @abc.abstractmethod
    def _example(self, tokens_N: np.ndarray, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example: ...


class Wrapper(Objective):
    """An objective made of another one, `inner`, whose properties it has unless it says otherwise."""

    @property
    @abc.abstractmethod
    def inner(self) -> Objective: ...

    structures = property(lambda self: self.inner.structures)
    gives = property(lambda self: self.inner.gives)
    overlap = property(lambda self: self.inner.overlap)
    unit = property(lambda self: self.inner.unit)
    coordinates = property(lambda self: self.inner.coordinates)
    labels = property(lambda self: self.inner.labels)
    marks = property(lambda self: self.inner.marks)

    def needs(self, lengths: Lengths) -> int:
        return self.inner.needs(lengths)

    def sentinels(self, lengths: Lengths) -> int:
        return self.inner.sentinels(lengths)


def instantiate(part: "Component | Objective") -> Objective:
    """The objective that an argument stands for."""
    return part if isinstance(part, Objective) else registry.instantiate(part)


def name(objective: Objective) -> str:
    """The name an objective is registered by."""
    return next(e.name for e in registry.entries("objective") if e.factory is type(objective))


def check(objective: Objective, structure: str, generator: bool = False) -> None:
    """Raises UserError when an objective cannot train a model of this structure, with or without a generator."""
    if structure not in objective.structures:
        allowed = ", ".join(s for s in STRUCTURES if s in objective.structures) or "none"
        raise UserError(f"objective: {name(objective)} cannot train a model whose structure is {structure} (allowed: {allowed})")
    if generator != ("detection" in objective.gives):
        kind = "with" if generator else "without"
        raise UserError(f"objective: {name(objective)} cannot train a model {kind} a generator (the key model.generator)")


def largest(fits: Callable[[int], bool], objective: Objective, lengths: Lengths, least: int = 2) -> int:
    """The largest number of tokens that fit, where more tokens never fit better. Raises UserError when `least` do not."""
    if not fits(least):
        raise UserError(f"objective: {name(objective)} cannot make an example of {lengths}: even {least} tokens do not fit")
    low, high = least, 2 * least
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def from_inputs_to_targets(inputs_I: np.ndarray, targets_T: np.ndarray, specials: Specials, lengths: Lengths) -> Example:
    """The example that predicts `targets_T` from `inputs_I`.

    With an encoder it reads the inputs, and the decoder reads the targets shifted by one. Without, the only stack reads both, one
    after the other; the inputs are a prefix, and only the targets are predicted (Raffel et al. 2019, arXiv:1910.10683, section
    3.2.1), so that it reads len(inputs) + len(targets) - 1 tokens.
    """
    if lengths.inputs is not None:
        shifted_T = np.concatenate([[specials.beginning], targets_T[:-1]])
        weights_T = np.ones(len(targets_T), np.float32)
        return Example(ints(shifted_T), ints(targets_T), weights_T, inputs=ints(inputs_I))
    whole = np.concatenate([inputs_I, targets_T])
    place_T = np.arange(len(whole) - 1)
    weights_T = (place_T >= len(inputs_I) - 1).astype(np.float32)
    return Example(ints(whole[:-1]), ints(whole[1:]), weights_T, prefix=place_T < len(inputs_I))


def ints(array: np.ndarray) -> np.ndarray:
    """As int32, contiguous."""
    return np.ascontiguousarray(array, np.int32)
