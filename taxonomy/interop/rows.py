"""Rows: which tensor of theirs is which parameter of ours, in one pattern that is read in both directions.

    Row("model.layers.{layer}.self_attn.q_proj.weight", "decoder/{layer}/attention/query", "(h k) d -> d h k")

`{layer}` numbers the layers in their names and stands for that layer's place in our stack. Axes have names; neighbouring axes that
are merged into one stand in brackets. Sizes follow from our shapes, or from the sublayer when an axis has the name of one of its
numbers (`kv_heads`, `head_dim`, `d_ff`, ...). Without a pattern the two are the same array.

Fused tensors name several of ours, and mark with + the axis along which those follow one another:

    "d (+h k) -> d h k"                            queries, keys and values one after another, however many heads each has
    "(h +n k) d -> d h k"                          every head has a query, a key and a value in turn; n is no axis of ours
    "(kv_heads +r k) d -> d (kv_heads r) k"        every group has its queries, then its key and its value

Split tensors have a second name in braces: it counts theirs, and is the first axis of the pattern:

    Row("h.{layer}.experts.{e}.w1.weight", "decoder/{layer}/moe/gate", "e f d -> e d f")

A row applies wherever the model has the parameters it names, so biases, optional norms and blocks of several kinds need no
conditions; `when` chooses between two rows for the same parameter by what config.json says.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table. A bad pattern is a ValueError when the table is imported."""

    theirs: str
    ours: str | tuple[str, ...]
    pattern: str = ""
    when: Callable[[Mapping], bool] | None = None

    def __post_init__(self):
        if (self.rearrangement.joined is None) != (len(self.paths) == 1):
            raise ValueError(f"{self.theirs}: a row for {len(self.paths)} parameters, but {self.pattern!r}")
        counted = [(name,) for name in self.counters]
        if counted != list(self.rearrangement.left[: len(counted)]):
            raise ValueError(f"{self.theirs}: the pattern must begin with {self.counters}, but is {self.pattern!r}")

    @functools.cached_property
    def rearrangement(self) -> "Rearrangement":
        return Rearrangement(self.pattern)

    @property
    def paths(self) -> tuple[str, ...]:
        """Ours, always as several."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def counters(self) -> list[str]:
        """The names in braces besides {layer}."""
        return [name for name in re.findall(r"{(\w+)}", self.theirs) if name != "layer"]

    def names(self, layer: int | None, sizes: Shape) -> list[str]:
        """Their names at one layer; `sizes` are those of the counters."""
        turns = itertools.product(*map(range, sizes))
        return [self.theirs.format(layer=layer, **dict(zip(self.counters, turn, strict=True))) for turn in turns]


class Rearrangement:
    """A pattern. `theirs` has all the tensors a row's name counts, on leading axes. `known` has sizes of axes by name."""

    def __init__(self, pattern: str):
        self.pattern = pattern
        self.left, self.right, self.joined = (), (), None
        if not pattern:
            return
        left, arrow, right = pattern.partition("->")
        joined = re.findall(r"\+(\w+)", left)
        self.left, self.right = _groups(left.replace("+", "")), _groups(right)
        self.joined = joined[0] if joined else None
        ours, theirs = _flat(self.right), _flat(self.left)
        extra = set(theirs) - set(ours) - set(joined)
        if not arrow or len(joined) > 1 or extra or not set(ours) <= set(theirs) or len(set(theirs)) < len(theirs):
            raise ValueError(f"cannot read the pattern {pattern!r}")

    def theirs_shape(self, shapes: Sequence[Shape], known: Mapping[str, int]) -> Shape:
        """Their shape, given the shapes of ours."""
        if not self.pattern:
            return tuple(shapes[0])
        sizes = self._sizes(shapes, known)
        whole = {axis: sum(s[axis] for s in sizes) if axis == self.joined else sizes[0][axis] for axis in _flat(self.left)}
        return tuple(math.prod(whole[axis] for axis in group) for group in self.left)

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape], known: Mapping[str, int]) -> list[np.ndarray]:
        """Ours, as views of theirs where possible."""
        if not self.pattern:
            return [theirs]
        sizes, axes = self._sizes(shapes, known), _flat(self.left)
        if self.joined is None:
            pieces = [theirs.reshape([sizes[0][axis] for axis in axes])]
        else:
            whole = {**sizes[0], self.joined: sum(s[self.joined] for s in sizes)}
            cuts = np.cumsum([s[self.joined] for s in sizes])[:-1]
            pieces = np.split(theirs.reshape([whole[axis] for axis in axes]), cuts, axis=axes.index(self.joined))
        order = [axes.index(axis) for axis in self._ours_axes()]
        return [piece.transpose(order).reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def to_theirs(self, ours: Sequence[np.ndarray], known: Mapping[str, int]) -> np.ndarray:
        """The inverse of `to_ours`."""
        if not self.pattern:
            return ours[0]
        shapes = [part.shape for part in ours]
        sizes, axes, mine = self._sizes(shapes, known), _flat(self.left), self._ours_axes()
        order = [mine.index(axis) for axis in axes]
        pieces = [part.reshape([s[axis] for axis in mine]).transpose(order) for part, s in zip(ours, sizes, strict=True)]
        whole = pieces[0] if self.joined is None else np.concatenate(pieces, axes.index(self.joined))
        return whole.reshape(self.theirs_shape(shapes, known))

    def _ours_axes(self) -> list[str]:
        """The axes of one of ours, with the joined axis first where it is none of ours."""
        mine = _flat(self.right)
        return mine if self.joined is None or self.joined in mine else [self.joined, *mine]

    def _sizes(self, shapes: Sequence[Shape], known: Mapping[str, int]) -> list[dict[str, int]]:
        """The size of every axis, for each of ours."""
        found = []
        for shape in shapes:
            # A joined axis differs between the parts, and one that is none of ours has size one in each.
            sizes = {axis: known[axis] for axis in _flat(self.right) if axis in known and axis != self.joined}
            if self.joined is not None and self.joined not in _flat(self.right):
                sizes[self.joined] = 1
            if len(shape) != len(self.right):
                raise ValueError(f"{self.pattern!r} does not fit a parameter of shape {tuple(shape)}")
            for size, group in zip(shape, self.right, strict=True):
                unknown = [axis for axis in group if axis not in sizes]
                rest = math.prod(sizes[axis] for axis in group if axis in sizes)
                if len(unknown) > 1 or size % rest or (not unknown and size != rest):
                    raise ValueError(f"{self.pattern!r} does not fit a parameter of shape {tuple(shape)}")
                if unknown:
                    sizes[unknown[0]] = size // rest
            found.append(sizes)
        for axis in _flat(self.left):
            if axis != self.joined and len({sizes[axis] for sizes in found}) > 1:
                raise ValueError(f"{self.pattern!r}: axis '{axis}' differs between parameters of shapes {list(shapes)}")
        return found


def _groups(side: str) -> tuple[tuple[str, ...], ...]:
    """Merged axes of one side: "d (h k)" is (("d",), ("h", "k"))."""
    return tuple(tuple(merged.split()) if merged else (single,) for merged, single in re.findall(r"\(([^()]*)\)|(\w+)", side))


def _flat(groups: tuple[tuple[str, ...], ...]) -> list[str]:
    return [axis for group in groups for axis in group]
