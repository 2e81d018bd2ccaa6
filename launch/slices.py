"""What Google's clouds call TPU slices: names, shapes, hosts and system images. Python's standard library only."""

import dataclasses
import difflib
import math
import re

from parameters import LaunchError


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation of TPUs.

    cloud: what slices are called, "v5litepod" in v5litepod-16.   runtime: the image of Cloud TPU VMs; "" where there are none.
    gke: the node label's value.   cores: that the name of a slice counts for each chip.   whole: the most chips of one host.
    """

    cloud: str
    runtime: str
    gke: str
    cores: int
    whole: int
    shapes: tuple[str, ...]


# docs.cloud.google.com: tpu/docs/runtimes, tpu/docs/{v4,v5e,v5p,v6e}, kubernetes-engine/docs/concepts/tpus. Of the cubes there are
# many more.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
GENERATIONS = {
    "v4": Generation("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", 2, 4, _CUBES),
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1, 8, _FLAT),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", 2, 4, _CUBES),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", 1, 8, _FLAT),
    "tpu7x": Generation("tpu7x", "", "tpu7x", 2, 4, _CUBES),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a generation: its name as Google writes it, its shape ("" where unusual), and its hosts with their chips."""

    name: str
    generation: Generation
    topology: str
    hosts: int
    chips_per_host: int


def parse(name: str, topology: str = "") -> Slice:
    """A slice from "v6e-32", and a shape where it is not the usual one of this size. Raises LaunchError."""
    match = re.fullmatch(r"([a-z0-9]+)-([1-9][0-9]*)", name.lower())
    if not match:
        raise LaunchError(f"--accelerator: expected a generation and a size such as v6e-32 or v5p-64, got {name!r}")
    known = {one.cloud: one for one in GENERATIONS.values()} | GENERATIONS
    if match[1] not in known:
        close = difflib.get_close_matches(match[1], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise LaunchError(f"--accelerator: unknown generation {match[1]!r} of {name!r}{hint} (allowed: {', '.join(known)})")
    generation, size = known[match[1]], int(match[2])
    chips, rest = divmod(size, generation.cores)
    shapes = {_chips(shape): shape for shape in reversed(generation.shapes)}
    if topology:
        dimensions = generation.shapes[0].count("x")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)" + f"{{{dimensions}}}", topology) or _chips(topology) * generation.cores != size:
            raise LaunchError(f"--topology: expected {dimensions + 1} numbers with a product of {chips} chips, got {topology!r}")
    elif rest or (chips not in shapes and (generation.shapes is _FLAT or chips % 4)):
        sizes = ", ".join(f"{generation.cloud}-{n * generation.cores}" for n in sorted(shapes))
        raise LaunchError(f"--accelerator: there is no slice {name!r} (such as {sizes})")
    hosts = 1 if chips <= generation.whole else chips // 4
    return Slice(f"{generation.cloud}-{size}", generation, topology or shapes.get(chips, ""), hosts, chips // hosts)


def _chips(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))
