"""Where the dimensions of every array of a traced program stand on a mesh, primitive by primitive, and what moves between devices.

A partitioner decides this when a program is compiled; here the same is told from the trace alone, which takes seconds for any size.
`Place` says over which mesh axes each dimension of an array is divided. What a contraction sums over a divided dimension is added
up over devices; an operand whose mesh axis the other operand uses for another dimension is gathered first, as fully sharded
parameters are. Primitives that are not named here keep the axes of dimensions that keep their size.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """The mesh axes of each dimension. anywhere: axes that divide the array by a dimension that a later constraint says."""

    dims: tuple[Axes, ...]
    anywhere: Axes = ()

    @property
    def axes(self) -> Axes:
        return tuple(axis for dim in self.dims for axis in dim) + self.anywhere

    @classmethod
    def of(cls, spec: Any, rank: int) -> "Place":
        """The place that a PartitionSpec says, of an array of this rank."""
        entries = [*spec, *[None] * (rank - len(spec))]
        return cls(tuple(() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in entries))

    def without(self, axes: Sequence[str]) -> "Place":
        dims = tuple(tuple(a for a in dim if a not in axes) for dim in self.dims)
        return Place(dims, tuple(a for a in self.anywhere if a not in axes))


@dataclasses.dataclass(frozen=True)
class Move:
    """A collective: what is done, over which mesh axes, with how many elements of one device's result and of what type.

    kind: "all-gather" (elements gathered), "reduce-scatter" (elements before), "all-reduce", "all-to-all", "collective-permute".
    operand: which operand is moved, where it is not what the result is made of.
    """

    kind: str
    axes: Axes
    elements: float
    itemsize: int
    operand: int | None = None


class Rules:
    """How places flow through primitives on a mesh. Sums over the axes `scattered` are left in parts, as gradients are."""

    def __init__(self, sizes: dict[str, int], scattered: Sequence[str] = ("fsdp",)):
        self.sizes, self.scattered = sizes, scattered
        # What `tracing.cost` has found out already.
        self.known: dict[Any, Any] = {}

    def real(self, place: Place) -> Place:
        """A place without axes of one device."""
        return place.without([axis for axis in place.axes if self.sizes[axis] == 1])

    def over(self, axes: Sequence[str]) -> int:
        """Devices that these axes stand for."""
        return math.prod(self.sizes[a] for a in axes)

    def elements(self, shape: Sequence[int], place: Place) -> float:
        """Elements of one device's part."""
        return math.prod(shape) / self.over(place.axes)

    def apply(self, equation: Any, given: list[Place]) -> tuple[list[Place], list[Move], float]:
        """Places of the results, what moves, and FLOPs of matrix products on one device."""
        name = equation.primitive.name
        special = getattr(self, f"_{name.replace('-', '_')}", None)
        if special is not None:
            return special(equation, given)
        if name.startswith(("reduce_", "arg")) and "axes" in equation.params:
            return self._reduced(equation, given)
        return [self._kept(equation, given, out.aval.shape) for out in equation.outvars], [], 0.0

    def _kept(self, equation: Any, given: list[Place], shape: Sequence[int]) -> Place:
        dims: list[Axes] = [()] * len(shape)
        anywhere: Axes = ()
        for variable, place in zip(equation.invars, given, strict=True):
            if len(variable.aval.shape) != len(shape):
                continue
            anywhere = anywhere or place.anywhere
            taken = {a for dim in dims for a in dim}
            for i, axes in enumerate(place.dims):
                if not dims[i] and variable.aval.shape[i] == shape[i] and not taken & set(axes):
                    dims[i] = axes
        taken = {a for dim in dims for a in dim}
        return Place(tuple(dims), tuple(a for a in anywhere if a not in taken) if math.prod(shape) > 1 else ())

    def _reduced(self, equation: Any, given: list[Place]):
        gone, place = equation.params["axes"], given[0]
        kept = tuple(axes for i, axes in enumerate(place.dims) if i not in gone)
        summed = tuple(a for i in gone for a in place.dims[i])
        out = Place(kept, place.anywhere if kept else ())
        if equation.primitive.name == "reduce_sum" and len(kept) > 1:
            aval = equation.outvars[0].aval
            out, moves = self._summed(out, summed, self.elements(aval.shape, out), aval.dtype.itemsize)
            return [out], moves, 0.0
        moves = [
            Move("all-reduce", summed, self.elements(v.aval.shape, out), v.aval.dtype.itemsize) for v in equation.outvars if summed
        ]
        return [out] * len(equation.outvars), moves, 0.0

    def _optimization_barrier(self, equation: Any, given: list[Place]):
        return given, [], 0.0

    def _transpose(self, equation: Any, given: list[Place]):
        return [Place(tuple(given[0].dims[i] for i in equation.params["permutation"]), given[0].anywhere)], [], 0.0

    def _broadcast_in_dim(self, equation: Any, given: list[Place]):
        shape, old = equation.params["shape"], equation.invars[0].aval.shape
        dims: list[Axes] = [()] * len(shape)
        for i, to in enumerate(equation.params["broadcast_dimensions"]):
            if old[i] == shape[to]:
                dims[to] = given[0].dims[i]
        return [Place(tuple(dims), given[0].anywhere)], [], 0.0

    def _squeeze(self, equation: Any, given: list[Place]):
        gone = equation.params["dimensions"]
        return [Place(tuple(axes for i, axes in enumerate(given[0].dims) if i not in gone), given[0].anywhere)], [], 0.0

    def _reshape(self, equation: Any, given: list[Place]):
        old, new, place = equation.invars[0].aval.shape, equation.outvars[0].aval.shape, given[0]
        dims: list[Axes] = [()] * len(new)
        i = j = 0
        while i < len(old) and j < len(new):
            # The next group of dimensions that becomes a group.
            first, onto, left, right = i, j, old[i], new[j]
            i, j = i + 1, j + 1
            while left != right:
                if left < right:
                    left, i = left * old[i], i + 1
                else:
                    right, j = right * new[j], j + 1
            axes = tuple(a for dim in place.dims[first:i] for a in dim)
            target = next((k for k in range(onto, j) if new[k] > 1 and new[k] % self.over(axes) == 0), None)
            if axes and target is not None:
                dims[target] = axes
        return [Place(tuple(dims), place.anywhere)], [], 0.0

    def _sharding_constraint(self, equation: Any, given: list[Place]):
        variable, place = equation.outvars[0], given[0]
        wanted, free = Place.of(equation.params["sharding"].spec, len(variable.aval.shape)), equation.params["unconstrained_dims"]
        out = self.real(Place(tuple(place.dims[i] if i in free else axes for i, axes in enumerate(wanted.dims))))
        moves, elements = [], self.elements(variable.aval.shape, out)
        stood = {axis: i for i, dim in enumerate(place.dims) for axis in dim}
        missing = tuple(a for a in place.axes if a not in out.axes)
        if missing:
            moves.append(Move("all-gather", missing, elements, variable.aval.dtype.itemsize))
        moved = tuple(a for i, dim in enumerate(out.dims) for a in dim if stood.get(a, i) != i)
        if moved:
            moves.append(Move("all-to-all", moved, elements, variable.aval.dtype.itemsize))
        return [out], moves, 0.0

    def _dot_general(self, equation: Any, given: list[Place]):
        ((left_over, right_over), (left_batch, right_batch)) = equation.params["dimension_numbers"]
        variables, out = equation.invars, equation.outvars[0].aval
        left, right = (place.without(place.anywhere) for place in given)
        moves = []

        def gathered(operand: int, place: Place, axes: Sequence[str]) -> Place:
            aval = variables[operand].aval
            place = place.without(axes)
            moves.append(Move("all-gather", tuple(axes), self.elements(aval.shape, place), aval.dtype.itemsize, operand))
            return place

        # An axis may divide one dimension of the product only; the operand that is gathered for it is the smaller one.
        role = {}
        for operand, (place, over, batch) in enumerate(((left, left_over, left_batch), (right, right_over, right_batch))):
            for i, axes in enumerate(place.dims):
                what = ("over", over.index(i)) if i in over else ("batch", batch.index(i)) if i in batch else (operand, i)
                for axis in axes:
                    role.setdefault(axis, {})[operand] = what
        clash = [axis for axis, roles in role.items() if len(set(roles.values())) > 1]
        if clash:
            # What moves: the operand that is gathered, and the result, when the other one is summed over the same axis.
            moving = []
            for operand, place in enumerate((left, right)):
                aval, other = variables[operand].aval, (left, right)[1 - operand]
                inside = {a for i in (right_over if operand == 0 else left_over) for a in other.dims[i]}
                size = self.elements(aval.shape, place.without(clash)) * aval.dtype.itemsize
                rest = (*left.without(clash).axes, *right.without(clash).axes)
                moving.append(
                    size + (math.prod(out.shape) / self.over(set(rest)) * out.dtype.itemsize if inside & set(clash) else 0)
                )
            if moving[0] <= moving[1]:
                left = gathered(0, left, clash)
            else:
                right = gathered(1, right, clash)
        summed = {a for i in left_over for a in left.dims[i]} | {a for i in right_over for a in right.dims[i]}
        dims = [left.dims[i] or right.dims[j] for i, j in zip(left_batch, right_batch, strict=True)]
        dims += [axes for i, axes in enumerate(left.dims) if i not in (*left_over, *left_batch)]
        dims += [axes for i, axes in enumerate(right.dims) if i not in (*right_over, *right_batch)]
        place = Place(tuple(dims))
        flops = 2.0 * math.prod(out.shape) * math.prod(variables[0].aval.shape[i] for i in left_over)
        flops /= self.over(place.axes) * self.over(tuple(summed))
        elements = self.elements(out.shape, place)
        place, more = self._summed(place, summed, elements, out.dtype.itemsize)
        return [place], [*moves, *more], flops

    def _summed(self, place: Place, summed: Collection[str], elements: float, itemsize: int) -> tuple[Place, list[Move]]:
        """Where a sum over devices stands, and what it moves."""
        moves = []
        scattered = tuple(a for a in summed if a in self.scattered and a not in place.axes)
        if scattered:
            moves.append(Move("reduce-scatter", scattered, elements, itemsize))
            place, elements = Place(place.dims, scattered), elements / self.over(scattered)
        if reduced := tuple(a for a in summed if a not in scattered):
            moves.append(Move("all-reduce", reduced, elements, itemsize))
        return place, moves

    def _scatter_add(self, equation: Any, given: list[Place]):
        """The gradient of a gather: what every device adds is added up."""
        numbers, out = equation.params["dimension_numbers"], equation.outvars[0].aval
        table, updates = given[0].without(given[0].anywhere), given[2]
        skipped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        whole = [i for i in range(len(out.shape)) if i not in skipped]
        dims = list(table.dims)
        for window, i in zip(numbers.update_window_dims, whole, strict=True):
            if not dims[i] and equation.invars[2].aval.shape[window] == out.shape[i]:
                dims[i] = tuple(a for a in updates.dims[window] if a not in table.axes)
        added = [dim for i, dim in enumerate(updates.dims) if i not in numbers.update_window_dims]
        for i, row in zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True):
            dims[i] = dims[i] or tuple(a for a in added[row] if a not in table.axes)
        place = Place(tuple(dims))
        summed = tuple(dict.fromkeys(a for dim in added for a in dim if a not in place.axes))
        place, moves = self._summed(place, summed, self.elements(out.shape, place), out.dtype.itemsize)
        return [place], moves, 0.0

    def _gather(self, equation: Any, given: list[Place]):
        numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
        table, shape = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        whole = [i for i in range(len(table)) if i not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
        dims: list[Axes] = [()] * len(shape)
        indexed = iter(given[1].dims[:-1])
        for i in range(len(shape)):
            if i not in numbers.offset_dims:
                dims[i] = next(indexed, ())
        taken = {a for dim in dims for a in dim}
        for i, source in zip(numbers.offset_dims, whole, strict=True):
            if sizes[source] == table[source] and not taken & set(given[0].dims[source]):
                dims[i] = given[0].dims[source]
        place = Place(tuple(dims))
        # Rows that another device has are zero here and added up.
        searched = tuple(a for i in numbers.collapsed_slice_dims for a in given[0].dims[i] if a not in place.axes)
        aval = equation.outvars[0].aval
        moves = [Move("all-reduce", searched, self.elements(shape, place), aval.dtype.itemsize)] if searched else []
        return [place], moves, 0.0

    def _ragged_dot_general(self, equation: Any, given: list[Place]):
        rows, inner = equation.invars[0].aval.shape[-2:]
        flops = 2.0 * rows * inner * equation.outvars[0].aval.shape[-1]
        return [self._kept(equation, given, equation.outvars[0].aval.shape)], [], flops

    def _psum(self, equation: Any, given: list[Place]):
        return self._collective("all-reduce", equation, given)

    _psum_invariant = _psum
    _psum2 = _psum

    def _all_gather(self, equation: Any, given: list[Place]):
        return self._collective("all-gather", equation, given)

    _all_gather_invariant = _all_gather

    def _reduce_scatter(self, equation: Any, given: list[Place]):
        return self._collective("reduce-scatter", equation, given)

    def _all_to_all(self, equation: Any, given: list[Place]):
        return self._collective("all-to-all", equation, given)

    def _ppermute(self, equation: Any, given: list[Place]):
        return self._collective("collective-permute", equation, given)

    def _collective(self, kind: str, equation: Any, given: list[Place]):
        """One that the program itself asks for, within what every device does with its parts."""
        names = equation.params.get("axes", equation.params.get("axis_name"))
        names = (names,) if isinstance(names, str) else tuple(names)
        side = equation.invars if kind == "reduce-scatter" else equation.outvars
        moves = [Move(kind, names, math.prod(v.aval.shape), v.aval.dtype.itemsize) for v in side]
        return [Place(((),) * len(v.aval.shape)) for v in equation.outvars], moves, 0.0
