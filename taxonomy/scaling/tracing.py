"""What a traced program costs every device of a mesh: FLOPs, what moves between devices, and the memory that it needs at a time.

Memory follows the order of the trace. Arrays that only elementwise operations and reductions read are taken as fused into what
reads them; all others live from where they are made to their last use. A scan's body counts once, beside all that the scan gives; a
while loop is taken to turn once.
"""

import dataclasses
import math
import re
import weakref
from collections import Counter
from collections.abc import Collection
from typing import Any

from taxonomy.scaling.placement import Axes, Move, Place, Rules

# Read and written by what is fused around them.
_FUSED = frozenset(
    [
        "abs",
        "add",
        "and",
        "asin",
        "atan2",
        "bitcast_convert_type",
        "broadcast_in_dim",
        "cbrt",
        "ceil",
        "clamp",
        "copy",
        "cos",
        "convert_element_type",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "iota",
        "is_finite",
        "le",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "pad",
        "population_count",
        "pow",
        "random_bits",
        "random_wrap",
        "random_unwrap",
        "threefry2x32",
        "real",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_logical",
        "sign",
        "sin",
        "slice",
        "sqrt",
        "square",
        "sub",
        "tan",
        "tanh",
        "xor",
        "pvary",
        "add_any",
        "concatenate",
        "rev",
    ]
)
# Read what is fused into them, and write what is not.
_REDUCED = frozenset(["reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "argmin"])
_SAME = frozenset(["reshape", "transpose", "squeeze", "expand_dims", "sharding_constraint", "name", "stop_gradient"])

# What `ops.splash` calls a kernel that works in some of its turns.
_WORK = re.compile(r"_in_(\d+)_of_(\d+)_blocks")

_SHOWN = 12

# Jaxprs with their calls written out, which is the same on every mesh.
_WRITTEN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclasses.dataclass
class Cost:
    """Of one device. flops: of matrix products. touched: bytes that these read and write. peak: bytes alive at a time.

    once: what would be moved of constants, and needs to be but once however often a scan turns. alive: of what the peak is made,
    the largest first.
    """

    flops: float = 0.0
    touched: float = 0.0
    moved: Counter[Move] = dataclasses.field(default_factory=Counter)
    once: Counter[Move] = dataclasses.field(default_factory=Counter)
    peak: float = 0.0
    alive: tuple[tuple[float, str], ...] = ()

    def add(self, other: "Cost", times: float = 1, but: Collection[Move] = ()) -> None:
        """All but the peak, and but some moves."""
        self.flops += times * other.flops
        self.touched += times * other.touched
        for move, count in other.moved.items():
            if move not in but:
                self.moved[move] += times * count


class _Value:
    """An array of a trace whose calls are written out."""

    def __init__(self, aval: Any):
        self.aval = aval


@dataclasses.dataclass(frozen=True)
class _Equation:
    """One of them: the same that a jaxpr has. share: of a kernel's turns, how many it works in."""

    primitive: Any
    params: dict[str, Any]
    invars: list[_Value]
    outvars: list[_Value]
    share: float = 1.0


def cost(jaxpr: Any, places: list[Place], rules: Rules, constants: int = 0) -> tuple[Cost, list[Place], list[Any]]:
    """The cost of a jaxpr whose inputs stand at these places, the places of its results, and what each of these is the same as.

    The peak is without inputs and results: they live in the buffers of who asks. `constants`: so many of the first inputs are the
    same in every turn of a scan.
    """
    # Layers that are alike are traced once, and a scan's body is asked about until its places settle.
    key = (id(jaxpr), tuple(places), constants)
    if key not in rules.known:
        rules.known[key] = jaxpr, _cost(jaxpr, places, rules, constants)
    return rules.known[key][1]


def _cost(jaxpr: Any, places: list[Place], rules: Rules, constants: int) -> tuple[Cost, list[Place], list[Any]]:
    if jaxpr not in _WRITTEN:
        _WRITTEN[jaxpr] = _written_out(jaxpr)
    given, equations, results = _WRITTEN[jaxpr]
    known = {value: _nowhere(value) for value in given} | dict(zip(given, places, strict=False))
    read_whole = set(results)
    for one in reversed(equations):
        name = one.primitive.name
        if (name in _SAME and one.outvars[0] in read_whole) or name not in _SAME | _FUSED | _REDUCED:
            read_whole |= set(one.invars)
    # Which arrays in memory a value is made of; what it is the same as but for its shape; bytes of what has memory of its own.
    roots: dict[_Value, frozenset] = {}
    same: dict[_Value, Any] = {}
    sizes: dict[_Value, float] = {}
    total, steps, nothing = Cost(), [], frozenset()
    fixed, constant = set(given[:constants]), set()
    for one in equations:
        found_given = [known.setdefault(value, _nowhere(value)) for value in one.invars]
        inner, found, alike = _one(one, found_given, rules)
        once = [move for move in inner.moved if move.operand is not None and one.invars[move.operand] in fixed]
        total.once.update({move: inner.moved[move] for move in once})
        total.add(inner, but=once)
        if one.invars and all(value in fixed for value in one.invars):
            fixed |= set(one.outvars)
        uses = nothing.union(*(roots.get(value, nothing) for value in one.invars))
        name = one.primitive.name
        for i, (value, place) in enumerate(zip(one.outvars, found, strict=True)):
            known[value] = place
            if name == "optimization_barrier":
                roots[value] = roots.get(one.invars[i], nothing)
                same[value] = same.get(one.invars[i], one.invars[i])
                continue
            if name in ("broadcast_in_dim", "iota") and all(math.prod(v.aval.shape) == 1 or v in constant for v in one.invars):
                constant.add(value)
            # A constraint that gathers makes another array.
            if value in constant or (name in _SAME and not inner.moved) or (name in _FUSED and value not in read_whole):
                roots[value] = uses
                if name in _SAME:
                    same[value] = same.get(one.invars[0], one.invars[0])
                continue
            roots[value] = frozenset([value])
            sizes[value] = 0.0 if alike and alike[i] in alike[:i] else _bytes(value, place, rules)
        steps.append((uses, [value for value in one.outvars if value in sizes], inner))
    kept = nothing.union(*(roots.get(value, nothing) for value in results))
    total.peak, total.alive = _peak(steps, sizes, kept)
    return total, [known.get(value, _nowhere(value)) for value in results], [same.get(value, value) for value in results]


def _written_out(jaxpr: Any) -> tuple[list[_Value], list[_Equation], list[_Value]]:
    """Inputs, equations and results of a jaxpr, with the equations of what it calls in place of the calls."""
    equations: list[_Equation] = []

    def write(jaxpr: Any, given: list[_Value], share: float = 1.0) -> list[_Value]:
        values = dict(zip(jaxpr.invars, given, strict=True))

        def value(variable: Any) -> _Value:
            if hasattr(variable, "val"):
                return _Value(variable.aval)
            return values.setdefault(variable, _Value(variable.aval))

        for equation in jaxpr.eqns:
            taken, name = [value(v) for v in equation.invars], equation.primitive.name
            inner = None if name in ("scan", "while", "cond", "shard_map", "pallas_call") else _called(equation)
            if inner is not None:
                work = _WORK.search(str(equation.params.get("name", "")))
                own = int(work[1]) / int(work[2]) if work else share
                values |= zip(equation.outvars, write(inner, taken, own), strict=True)
            else:
                made = [value(v) for v in equation.outvars]
                equations.append(_Equation(equation.primitive, equation.params, taken, made, share))
        return [value(v) for v in jaxpr.outvars]

    given = [_Value(v.aval) for v in jaxpr.invars]
    return given, equations, write(jaxpr, given)


def _called(equation: Any) -> Any:
    """The jaxpr that an equation calls, if it is a call."""
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return getattr(inner, "jaxpr", inner)


def _peak(steps: list, sizes: dict, kept: frozenset) -> tuple[float, tuple[tuple[float, str], ...]]:
    """Bytes alive at a time, and of what; `kept` are not counted."""
    last: dict[Any, int] = {}
    for i, (uses, made, _) in enumerate(steps):
        last |= dict.fromkeys((*made, *(value for value in uses if value in sizes)), i)
    ending: Counter[int] = Counter()
    for value, i in last.items():
        ending[i] += 0 if value in kept else sizes[value]
    now, highest, at = 0.0, 0.0, -1
    for i, (_, made, inner) in enumerate(steps):
        now += sum(sizes[value] for value in made if value not in kept)
        if now + inner.peak > highest:
            highest, at = now + inner.peak, i
        now -= ending[i]
    alive = [value for _, made, _ in steps[: at + 1] for value in made if last[value] >= at and value not in kept]
    own = tuple((sizes[value], value.aval.str_short()) for value in alive)
    within = steps[at][2].alive if steps else ()
    return highest, tuple(sorted(own + within, reverse=True)[:_SHOWN])


def _one(one: Any, given: list[Place], rules: Rules) -> tuple[Cost, list[Place], list[Any]]:
    """The cost of one equation, whose peak is what it needs beside its results; where these stand; which of them are the same."""
    name, params = one.primitive.name, one.params
    if name == "scan":
        return _scan(one, given, rules)
    if name == "while":
        inner, found, _ = cost(params["body_jaxpr"].jaxpr, given[params["cond_nconsts"] :], rules)
        return inner, found, []
    if name == "cond":
        branches = [cost(branch.jaxpr, given[1:], rules) for branch in params["branches"]]
        inner, found, _ = max(branches, key=lambda branch: branch[0].flops)
        return dataclasses.replace(inner, peak=max(branch[0].peak for branch in branches)), found, []
    if name == "shard_map":
        return _locally(one, given, rules)
    if name == "pallas_call":
        return _kernel(one), [_nowhere(v) for v in one.outvars], []
    places, moves, flops = rules.apply(one, given)
    total = Cost(flops=flops, moved=Counter(moves))
    if flops:
        total.touched = sum(_bytes(v, p, rules) for v, p in zip((*one.invars, *one.outvars), (*given, *places), strict=True))
        total.peak = sum(move.elements * move.itemsize for move in moves if move.kind in ("all-gather", "reduce-scatter"))
    return total, places, []


def _locally(one: Any, given: list[Place], rules: Rules) -> tuple[Cost, list[Place], list[Any]]:
    """What every device does with its parts, for which inputs that stand elsewhere are gathered."""
    inner = one.params["jaxpr"]
    total, *_ = cost(inner, [_nowhere(v) for v in inner.invars], Rules(dict.fromkeys(rules.sizes, 1)))
    for i, (spec, value, place) in enumerate(zip(one.params["in_specs"], one.invars, given, strict=True)):
        wanted = rules.real(Place.of(spec, len(value.aval.shape)))
        if missing := tuple(axis for axis in place.axes if axis not in wanted.axes):
            total.moved[Move("all-gather", missing, rules.elements(value.aval.shape, wanted), value.aval.dtype.itemsize, i)] += 1
            total.peak += _bytes(value, wanted, rules)
    found = [rules.real(Place.of(spec, len(v.aval.shape))) for spec, v in zip(one.params["out_specs"], one.outvars, strict=True)]
    return total, found, []


def _kernel(one: _Equation) -> Cost:
    """What a device computes in a kernel of its own."""
    turns = one.share * math.prod(one.params["grid_mapping"].grid)
    touched = sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in (*one.invars, *one.outvars))
    return Cost(flops=turns * _products(one.params["jaxpr"]), touched=touched)


def _products(jaxpr: Any) -> float:
    """FLOPs of a kernel's turn."""
    total = 0.0
    for one in jaxpr.eqns:
        name, inner = one.primitive.name, _called(one)
        if name == "dot_general":
            (over, _), _ = one.params["dimension_numbers"]
            total += 2.0 * math.prod(one.outvars[0].aval.shape) * math.prod(one.invars[0].aval.shape[i] for i in over)
        elif name == "cond":
            total += max(_products(branch.jaxpr) for branch in one.params["branches"])
        elif inner is not None:
            total += one.params.get("length", 1) * _products(inner)
    return total


def _scan(one: Any, given: list[Place], rules: Rules) -> tuple[Cost, list[Place], list[Any]]:
    params = one.params
    consts, carries = params["num_consts"], params["num_carry"]
    body = params["jaxpr"].jaxpr
    slices = [Place(place.dims[1:], place.anywhere) for place in given[consts + carries :]]
    carried = given[consts : consts + carries]
    for _ in range(3):  # until what is carried stands where it stood
        inner, found, alike = cost(body, [*given[:consts], *carried, *slices], rules, consts)
        after = [_common(before, now) for before, now in zip(carried, found[:carries], strict=True)]
        if after == carried:
            break
        carried = after
    total = Cost(peak=inner.peak, alive=inner.alive)
    total.add(inner, params["length"])
    total.moved.update(inner.once)
    return total, [*carried, *(Place(((), *place.dims), place.anywhere) for place in found[carries:])], alike


def _common(one: Place, other: Place) -> Place:
    dims = tuple(
        tuple(a for a in x if a in y) or (y if not x and not set(y) & set(one.axes) else ())
        for x, y in zip(one.dims, other.dims, strict=True)
    )
    taken = {axis for dim in dims for axis in dim}
    return Place(dims, tuple(axis for axis in one.anywhere or other.anywhere if axis not in taken))


def _nowhere(variable: Any) -> Place:
    return Place(((),) * len(getattr(variable.aval, "shape", ())))


def _bytes(variable: Any, place: Place, rules: Rules) -> float:
    return rules.elements(variable.aval.shape, place) * getattr(variable.aval.dtype, "itemsize", 8)


def by_axes(moved: Counter[Move]) -> dict[tuple[str, Axes], float]:
    """Bytes of one device's results, by kind of collective and mesh axes."""
    total: Counter = Counter()
    for move, count in moved.items():
        total[move.kind, move.axes] += count * move.elements * move.itemsize
    return dict(total)


def sent(move: Move, rules: Rules, torus: bool) -> float:
    """Bytes that one device sends for this collective around a ring, in both directions of which it sends on a torus."""
    n, size = rules.over(move.axes), move.elements * move.itemsize
    if n == 1:
        return 0.0
    if move.kind == "collective-permute":
        return size
    if move.kind == "all-to-all" and torus and n > 2:
        # Parts travel a quarter of the ring on average.
        return size * n / 4
    return size * (n - 1) / n * (2.0 if move.kind == "all-reduce" else 1.0)
