"""Logical axes -> mesh axes: one table, and an error when two axes of an array land on one mesh axis.

Parameters and activations name what their dimensions mean; only this file knows the machine. Mesh axes:

    replica   copies of everything, across slices        sequence   parts of one sequence
    stage     parts of the layers, see `pipeline`        tensor     parts of a layer's features
    data      parts of the batch                         expert     parts of the batch; different experts
    fsdp      parts of the batch and of the parameters

What is not of a stage, such as the embedding and the head, is computed with the batch divided over stages too.

A dimension of a parameter or of heads that its mesh axis does not divide stands whole on every device; the batch and the sequence
must divide. An axis that divides no parameter that it is for is a mistake.
"""

import collections
import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from taxonomy.errors import UserError, nearest

STAGE = "stage"
# Neighbours on the last axes exchange the most.
MESH_AXES = ("replica", STAGE, "data", "fsdp", "sequence", "tensor", "expert")
# The axes that may go across slices, between which the network is slow, the best ones first; stages send but activations.
ACROSS_SLICES = ("replica", STAGE, "data", "fsdp", "expert")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("replica", STAGE, "data", "fsdp", "expert"),
    "experts": ("expert",),
    "time": ("sequence",),
    "time_parts": ("sequence", "tensor"),
    "features": (),
    "feature_parts": ("tensor",),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "latent": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "layers": (STAGE,),
    "tracks": (),
}
_IN_STAGE = contextvars.ContextVar("in_stage", default=False)
_COPIES = contextvars.ContextVar("copies", default=0)

# How the residual stream may stand between blocks, and so what is kept of it, on devices that share a layer's features ("tensor"):
# whole on each, or divided by features (Chowdhery et al. 2022, arXiv:2204.02311, section 4) or by time (Korthikanti et al. 2022,
# arXiv:2205.05198, section 4.2.2). Sublayers read it whole, and what they add is scattered as it is summed over devices.
STREAMS: dict[str, tuple[str, ...]] = {
    "whole": ("batch", "time", "features"),
    "features": ("batch", "time", "feature_parts"),
    "time": ("batch", "time_parts", "features"),
}


def parse_mesh(text: str, devices: int) -> dict[str, int]:
    """Sizes of all mesh axes from "fsdp:4,tensor:2"; one size may be -1 and takes the devices that are left."""
    sizes = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.partition(":")
        name = name.strip()
        if name not in MESH_AXES:
            raise UserError(f"config.mesh: unknown axis '{name}' in {text!r}{nearest(name, MESH_AXES)}")
        if name in sizes:
            raise UserError(f"config.mesh: axis '{name}' is given twice in {text!r}")
        try:
            sizes[name] = int(size)
        except ValueError:
            raise UserError(f"config.mesh: axis '{name}' needs a size, as in '{name}:4', got {text!r}") from None
        if sizes[name] < 1 and sizes[name] != -1:
            raise UserError(f"config.mesh: axis '{name}' has size {sizes[name]}; allowed are 1, 2, ... or -1 for the rest")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"config.mesh: only one axis may be -1, got {', '.join(free)}")
    known = math.prod(size for size in sizes.values() if size > 0)
    if free and devices % known == 0:
        sizes[free[0]] = devices // known
    if math.prod(sizes.values()) != devices:
        asked = f"a multiple of {known}" if free else known
        raise UserError(f"config.mesh: {text!r} asks for {asked} devices, {devices} are there")
    return {name: sizes.get(name, 1) for name in MESH_AXES}


def make_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `text` describes over all devices (or the given ones)."""
    devices = list(devices) if devices is not None else jax.devices()
    sizes = parse_mesh(text, len(devices))
    # Linen's logical constraints need Auto axes; jax.make_mesh would take Explicit ones.
    types = (AxisType.Auto,) * len(MESH_AXES)
    if len({getattr(device, "slice_index", 0) for device in devices}) > 1:
        return Mesh(over_slices(sizes, devices), MESH_AXES, axis_types=types)
    # Mesh axes are whole axes of a TPU's torus where they can be, and parts of them where they cannot, as fsdp:8,tensor:8 on 4x4x4.
    grid = mesh_utils.create_device_mesh(list(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=types)


def over_slices(sizes: dict[str, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices of several slices in the shape of a mesh: what goes from slice to slice is what is seldom sent.

    The axes of `ACROSS_SLICES` take the slices, the first as many as it can. Raises UserError when they cannot take all.
    """
    left = slices = len({device.slice_index for device in devices})
    outer = dict.fromkeys(sizes, 1)
    for axis in ACROSS_SLICES:
        outer[axis] = math.gcd(sizes[axis], left)
        left //= outer[axis]
    if left > 1:
        given = ",".join(f"{axis}:{size}" for axis, size in sizes.items() if size > 1)
        raise UserError(
            f"config.mesh: {given!r} does not divide over {slices} slices; only {', '.join(ACROSS_SLICES)} may go across slices, "
            f"as with replica:{slices}"
        )
    inner = [size // outer[axis] for axis, size in sizes.items()]
    return mesh_utils.create_hybrid_device_mesh(inner, list(outer.values()), devices, allow_split_physical_axes=True)


def devices_of(text: str) -> int:
    """How many devices a mesh whose sizes are all given has. Raises UserError."""
    sizes = [part.partition(":")[2].strip() for part in filter(None, text.split(","))]
    if not all(size.isdigit() for size in sizes):
        raise UserError(f"config.mesh: {text!r} leaves open how many devices there are; give sizes as in fsdp:64, or --devices")
    return math.prod(map(int, sizes))


def abstract_mesh(text: str, devices: int, kind: str | None = None) -> AbstractMesh:
    """The mesh that `text` describes over so many devices, none of which need be there; kind: what JAX calls them."""
    sizes = parse_mesh(text, devices)
    device = kind and AbstractDevice(device_kind=kind, num_cores=None, platform="tpu" if kind.startswith("TPU") else "gpu")
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), abstract_device=device)


def platform() -> str:
    """What the devices of the mesh at work are, "tpu", "gpu" or "cpu"; without a mesh those that JAX runs on."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def flax_rules() -> list[tuple[str, tuple[str, ...] | None]]:
    """The table as flax wants it, for `nn.logical_axis_rules`."""
    return [(name, _axes(name) or None) for name in RULES]


def stages() -> int:
    """Over how many devices the layers are divided on the mesh at work; 1 without a mesh, and in a stage."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or staged() else mesh.shape.get(STAGE, 1)


def staged() -> bool:
    """Whether what is traced is done by all stages at a time, see `in_stage`."""
    return _IN_STAGE.get()


@contextlib.contextmanager
def in_stage() -> Iterator[None]:
    """Within, arrays are those of one stage: none of their dimensions stands over stages."""
    token = _IN_STAGE.set(True)
    try:
        with nn.logical_axis_rules(flax_rules()):
            yield
    finally:
        _IN_STAGE.reset(token)


def _axes(name: str) -> tuple[str, ...]:
    return tuple(axis for axis in RULES[name] if axis != STAGE) if staged() else RULES[name]


def partition(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh, what: str = "array") -> PartitionSpec:
    """Where an array with these logical axes lives. A dimension that its mesh axes do not divide is replicated.

    Raises UserError when two dimensions would use the same mesh axis.
    """
    taken: dict[str, str] = {}
    entries = []
    for i, (name, size) in enumerate(zip(axes, shape, strict=True)):
        # Of layers in layers the outer ones are in stages.
        found = () if name == "layers" and i else mesh_axes(name, size, mesh)
        for axis in found:
            if axis in taken:
                raise UserError(f"sharding: axes '{taken[axis]}' and '{name}' of {what} both map to mesh axis '{axis}'")
            taken[axis] = name
        entries.append(found if len(found) > 1 else (found[0] if found else None))
    return PartitionSpec(*entries)


def mesh_axes(name: str | None, size: int, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The mesh axes that a dimension stands over: none where they do not divide it."""
    axes = tuple(a for a in _axes(name) if mesh.shape.get(a, 1) > 1) if name else ()
    return () if size % math.prod(mesh.shape[a] for a in axes) else axes


def place(name: str, size: int, gathered: Sequence[str] = ()) -> tuple[str, ...]:
    """The mesh axes of the mesh at work that a dimension stands over, but for those that it is gathered from.

    Without a mesh, and within `locally`, there are none.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return () if mesh.empty or mesh.manual_axes else tuple(a for a in mesh_axes(name, size, mesh) if a not in gathered)


def constrained(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """An array whose dimensions stand where the rules say, on the mesh at work; one that its mesh axes do not divide is whole.

    Within `locally` it is the array itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return x
    # Axes of one device are named with the others, as flax does.
    parts = [_axes(name) if name else () for name in axes]
    entries = [at if size % over(at) == 0 else () for at, size in zip(parts, x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def moved(x: jax.Array, axes: tuple[str | None, ...], back: tuple[str | None, ...]) -> jax.Array:
    """An array `constrained` to these axes, whose gradient is to those that it comes from."""
    return _moved(x, axes, back, staged())


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _moved(x: jax.Array, axes: tuple[str | None, ...], back: tuple[str | None, ...], in_a_stage: bool) -> jax.Array:
    return constrained(x, axes)


def _moved_back(axes: tuple, back: tuple[str | None, ...], in_a_stage: bool, _: None, d: jax.Array) -> tuple[jax.Array]:
    # Gradients are computed when the stage has been left.
    with in_stage() if in_a_stage else contextlib.nullcontext():
        return (constrained(d, back),)


_moved.defvjp(lambda x, axes, back, in_a_stage: (constrained(x, axes), None), _moved_back)


def over(axes: Sequence[str]) -> int:
    """How many devices a dimension at this place stands over."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[a] for a in axes)


def locally(function: Callable, inputs: Any, outputs: Any, checked: bool = True) -> Callable:
    """`function` as every device does it with its parts of arrays, whose dimensions' places are given as PartitionSpecs.

    Within, collectives go over places. Without a mesh, and where devices have their parts already, it is the function itself.
    `checked`: JAX sees that devices agree on what is said to be the same on them, which it cannot of kernels.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return function
    if staged():
        return _by_stage(function, inputs, outputs, checked, _COPIES.get())
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=checked)


def _by_stage(function: Callable, inputs: Any, outputs: Any, checked: bool, copies: int) -> Callable:
    """The same where all stages do it at a time: every device for its own stage, as if there were no others.

    copies: how many axes of copies the function gets before that of stages.
    """
    # This one only tells the shapes; JAX's own rule would ask after every turn of a loop whether all stages are done with theirs.
    each = jax.custom_batching.custom_vmap(jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False))

    def own(*arguments: Any) -> Any:
        return jax.tree.map(lambda a: a[None], function(*jax.tree.map(lambda a: a[0], arguments)))

    def stacked(specs: Any, axis: str | None) -> Any:
        return jax.tree.map(lambda spec: PartitionSpec(axis, *spec), specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))

    @each.def_vmap
    def of_all(size: int, batched: Any, *arguments: Any) -> tuple[Any, Any]:
        arguments = jax.tree.map(lambda a, has: a if has else jnp.broadcast_to(a, (size, *a.shape)), arguments, tuple(batched))
        if copies:
            in_turn = lambda *arguments: jax.lax.map(lambda one: function(*one), arguments)  # noqa: E731
            found = _by_stage(in_turn, stacked(inputs, None), stacked(outputs, None), checked, copies - 1)(*arguments)
        else:
            specs = {"in_specs": stacked(inputs, STAGE), "out_specs": stacked(outputs, STAGE)}
            found = jax.shard_map(own, **specs, check_vma=checked)(*arguments)
        return found, jax.tree.map(lambda _: True, found)

    return each


@contextlib.contextmanager
def in_copies() -> Iterator[None]:
    """Within, arrays are those of one of several copies of a module, over which it is mapped."""
    token = _COPIES.set(_COPIES.get() + 1)
    try:
        yield
    finally:
        _COPIES.reset(token)


def apart(x: jax.Array, axes: Iterable[str], place: PartitionSpec | None = None) -> jax.Array:
    """Within `locally`, an array that stands at `place` (nowhere, if not given), marked as each device's own along these mesh axes.

    Gradients are then summed over the devices that have it in common.
    """
    named = {axis for entry in place or () for axis in ((entry,) if isinstance(entry, str) else entry or ())}
    missing = tuple(sorted(set(axes) - named))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def parameter_shardings(declared: Any, mesh: Mesh) -> Any:
    """NamedShardings for a tree of `Declared` parameters, shaped like the unboxed parameters."""

    def one(path, d):
        return NamedSharding(mesh, partition(d.names, d.value.shape, mesh, jax.tree_util.keystr(path)))

    return jax.tree_util.tree_map_with_path(one, declared, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def like(place: NamedSharding, shape: tuple[int, ...], own: tuple[int, ...]) -> NamedSharding:
    """Where an array of shape `own` stands that has all or all but one of the dimensions of another; else it is everywhere."""
    axes = (*place.spec, *(None,) * (len(shape) - len(place.spec)))
    if own == shape:
        return place
    for i in range(len(shape)):
        if (*shape[:i], *shape[i + 1 :]) == own:
            return NamedSharding(place.mesh, PartitionSpec(*axes[:i], *axes[i + 1 :]))
    return NamedSharding(place.mesh, PartitionSpec())


def check_lengths(sizes: Mapping[str, int], lengths: Mapping[str, int]) -> None:
    """Raises UserError where the sequence axis of a mesh with these sizes does not divide the tokens of a row, given by field."""
    devices = sizes["sequence"]
    for field, length in lengths.items():
        if length % devices:
            allowed = ", ".join(str(n) for n in range(1, devices + 1) if length % n == 0)
            raise UserError(
                f"config.mesh: axis 'sequence' has {devices} devices, which do not divide {field}={length} "
                f"(allowed up to it: {allowed})"
            )


def check_use(declared: Any, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError where a mesh axis divides none of the parameters' dimensions that it is for."""
    leaves = jax.tree.leaves(declared, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    dimensions = sorted({(name, size) for d in leaves for name, size in zip(d.names, d.value.shape, strict=True) if name})
    for axis in ("fsdp", "tensor"):
        meant = [(name, size) for name, size in dimensions if axis in RULES[name]]
        if mesh.shape[axis] > 1 and all(size % mesh.shape[axis] for _, size in meant):
            found = ", ".join(f"{name}={size}" for name, size in meant)
            raise UserError(f"config.mesh: axis '{axis}' has {mesh.shape[axis]} devices, which must divide any of {found}")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def batch_divisor(mesh: Mesh) -> int:
    """Every batch must be a multiple of this many sequences."""
    return math.prod(mesh.shape[a] for a in RULES["batch"])


@functools.lru_cache(maxsize=64)
def own_rows(mesh: Mesh, count: int) -> Sequence[int]:
    """The rows of a batch of `count` that this process has to read, because its devices hold them; ascending.

    All of them where the rows of two processes overlap and are not the same.
    """
    held = collections.defaultdict(set)
    for device, (rows,) in NamedSharding(mesh, PartitionSpec(RULES["batch"])).devices_indices_map((count,)).items():
        held[device.process_index].update(range(*rows.indices(count)))
    apart = sum(map(len, set(map(frozenset, held.values())))) == count
    return sorted(held[jax.process_index()]) if apart else range(count)
