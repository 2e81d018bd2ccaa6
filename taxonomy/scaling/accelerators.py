"""What accelerators can do, from their makers' data sheets: the ceilings that plans and utilisation are measured against."""

import dataclasses
import re

from taxonomy.errors import UserError, nearest

_TPU = "docs.cloud.google.com/tpu/docs/"
_OLD = "docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm; links: doi:10.1145/3360307, table 2"
_NVIDIA = "nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One chip.

    flops: dense bfloat16 FLOP/s. memory: bytes of its own. bandwidth: bytes/s between the two. link: bytes/s that it can send to
    neighbours in its slice or node, all links together, one direction. network: bytes/s that it can send beyond. links: how many
    ways of a torus `link` is spread over, or 1 where any neighbour can be sent all of it. group: chips that `link` connects at
    most. kind: a part of the name that JAX gives to its devices. devices: what JAX calls a device, so many a chip. cores: what the
    number in a slice's name counts, so many a chip: v5p-256 is 128 chips.
    """

    name: str
    kind: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    links: int
    group: int
    source: str
    devices: int = 1
    cores: int = 1

    def sending(self, reach: float) -> float:
        """Bytes/s that a chip can send around a ring whose members are among so many neighbouring chips.

        A ring within a slice has two links of a torus, both ways; within a node it has all of `link`. One that leaves either has
        the network.
        """
        if reach > self.group:
            return self.network
        return self.link if self.links == 1 else 2 * self.link / self.links


def _tpu(
    name: str, kind: str, tera: float, gib: float, gigabytes: float, link: float, network: float, links: int, group: int, **more
):
    page = f"{_TPU}{name}"
    sizes = (tera * 1e12, gib * 2**30, gigabytes * 1e9, link * 1e9, network * 1e9)
    return Accelerator(name, kind, *sizes, links, group, more.pop("source", page), **more)


def _gpu(name: str, tera: float, mebibytes: float, bandwidth: float, link: float, network: float):
    sizes = (tera * 1e12, mebibytes * 2**20, bandwidth * 1e12, link * 1e9, network * 1e9)
    return Accelerator(name, name.upper(), *sizes, 1, 8, f"{_NVIDIA}{name}")


# Links of TPUs are one direction of all ports; a network of 50 or 25 Gbit/s a chip is what their hosts' cards give. GPUs are
# the SXM ones, eight a node, with one network card of their speed's generation for each; their memory is what NVML says.
ACCELERATORS = {
    one.name: one
    for one in (
        _tpu(
            "v2",
            "TPU v2",
            45,
            16,
            700,
            248,
            3,
            4,
            256,
            devices=2,
            cores=2,
            source=_OLD,
        ),
        _tpu(
            "v3",
            "TPU v3",
            123,
            32,
            900,
            328,
            3,
            4,
            1024,
            devices=2,
            cores=2,
            source=_OLD,
        ),
        _tpu("v4", "TPU v4", 275, 32, 1228, 300, 6.25, 6, 4096, cores=2),
        _tpu("v5e", "TPU v5 lite", 197, 16, 819, 200, 3.125, 4, 256),
        _tpu("v5p", "TPU v5", 459, 95, 2765, 600, 6.25, 6, 8960, cores=2),
        _tpu("v6e", "TPU v6", 918, 32, 1638, 400, 12.5, 4, 256),
        _tpu("tpu7x", "TPU7x", 2307, 192, 7380, 600, 12.5, 6, 9216, devices=2, cores=2),
        _gpu("a100", 312, 81920, 2.039, 300, 25),
        _gpu("h100", 989, 81559, 3.35, 450, 50),
        _gpu("h200", 989, 143771, 4.8, 450, 50),
        _gpu("b200", 2250, 183359, 7.7, 900, 50),
    )
}


_SLICES = {"v5litepod": "v5e"}  # called otherwise in the names of slices


def find(name: str, field: str = "--accelerator") -> Accelerator:
    """The accelerator of this name. Raises UserError."""
    known = _SLICES.get(name.lower(), name.lower())
    if known not in ACCELERATORS:
        raise UserError(f"{field}: unknown '{name}'{nearest(known, ACCELERATORS)}")
    return ACCELERATORS[known]


def of_device(kind: str) -> Accelerator | None:
    """The accelerator that JAX calls so, or None: the longest name that is a part of it."""
    named = [one for one in ACCELERATORS.values() if re.search(rf"\b{re.escape(one.kind)}", kind)]
    return max(named, key=lambda one: len(one.kind), default=None)


def slice_flops(name: str) -> float:
    """FLOP/s of a slice at best: v5p-256 is 128 chips, h100-8 is 8. Raises UserError."""
    match = re.fullmatch(r"([a-z0-9]+)-([1-9][0-9]*)", name.lower())
    kind = match and _SLICES.get(match[1], match[1])
    if kind not in ACCELERATORS:
        known = nearest(match[1], ACCELERATORS) if match else f" (allowed: {', '.join(ACCELERATORS)}, with a number)"
        raise UserError(f"--chips: expected a kind and a number such as v5p-256 or h100-8, got {name!r}{known}")
    found = ACCELERATORS[kind]
    if int(match[2]) % found.cores:
        raise UserError(f"--chips: {match[1]} counts cores, {found.cores} a chip; {match[2]} is not a multiple of {found.cores}")
    return found.flops * int(match[2]) / found.cores
