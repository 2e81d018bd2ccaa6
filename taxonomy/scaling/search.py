"""Which meshes, remat policies and numbers of microbatches a step fits with, the fastest first.

Every candidate is estimated from a trace, as a single plan is. A trace serves all meshes that divide the rows of a batch among as
many devices, and is not made where it could not matter: more microbatches and more remat are slower, so of each mesh and policy the
fewest microbatches that fit are of interest, and nothing that is slower than enough others even if it fits.
"""

import dataclasses
import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from taxonomy import sharding
from taxonomy.layers.params import Declared
from taxonomy.scaling import estimate as estimates
from taxonomy.scaling.accelerators import Accelerator
from taxonomy.scaling.estimate import Estimate
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import Plan

POLICIES = ("none", "dots", "full")
# So many of the fastest are worth knowing.
WANTED = 10
# For advice that need not be the best.
_PATIENCE = 8
# Devices to look among at most.
_MOST = 1 << 15
# Dimensions that a candidate divides evenly or not at all; others are whole where their axes do not divide them.
_EVEN = {"mlp", "heads", "embed", "latent", "experts"}
# Ways around a torus are no longer than this where nobody says what slice it is.
_AROUND = 16

Sizes = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A step that fits, and what it needs."""

    mesh: str
    remat: str
    microbatches: int
    microbatch_tokens: int
    estimate: Estimate

    @property
    def arguments(self) -> str:
        """What to add to a command."""
        parts = [f"--mesh={self.mesh}", f"--config.train.remat={self.remat}"]
        return " ".join(parts + [f"--config.train.microbatch_tokens={self.microbatch_tokens}"] * (self.microbatches > 1))


class Search:
    """Proposals for a plan on so many devices. `say` is told what is going on.

    fixed: sizes of mesh axes that every candidate has. reach: neighbours that one layer's features are divided among at most.
    excess: how much more than what is estimated has to fit.
    """

    def __init__(
        self,
        plan: Plan,
        devices: int,
        accelerator: Accelerator,
        fixed: Sizes | None = None,
        reach: int | None = None,
        excess: float = 1.0,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.plan, self.devices, self.accelerator, self.excess, self.say = plan, devices, accelerator, excess, say
        self.fixed = dict(fixed or {})
        self.reach = reach or (accelerator.group if accelerator.links == 1 else _AROUND) * accelerator.devices
        if "replica" not in self.fixed:
            self.fixed["replica"] = self._slices()
        self.base = make_trainer(plan, sharding.abstract_mesh("data:-1", 1))
        self.named = [
            (name, size)
            for leaf in _leaves(self.base.declared)
            for name, size in zip(leaf.names, leaf.value.shape, strict=True)
            if name in _EVEN
        ]
        self._trainers: dict = {}
        self._traces: dict = {}
        self._estimates: dict = {}

    def proposals(self, policies: tuple[str, ...] = POLICIES, wanted: int = WANTED, patience: int | None = None) -> list[Proposal]:
        """What fits, the fastest first: of each mesh and policy at most one, and of all no more than are wanted.

        patience: the search ends when so many meshes in turn have nothing faster than the fastest before them.
        """
        found: list[Proposal] = []
        fastest = 0  # which mesh it was
        meshes = [sizes for sizes in self.meshes() if self._room_for_state(sizes)]
        # With features divided least: what moves then can wait.
        for i, sizes in enumerate(meshes):
            self.say(f"{_text(sizes)} ({i + 1} of {len(meshes)} meshes), {len(found)} fit, {len(self._traces)} traces")
            if patience is not None and found and i > fastest + patience:
                break
            counts = self._counts(sizes)
            if not counts or not self._fits(sizes, policies[-1], counts[-1]):
                continue
            for policy in policies:
                enough = heapq.nsmallest(wanted, (one.estimate.seconds for one in found))
                if len(enough) == wanted and self.at(sizes, policy, 1).seconds >= enough[-1]:
                    continue
                count = self._fewest(sizes, policy, counts)
                if count is None:
                    continue
                tokens = self.plan.batches.full // count * self.plan.context
                found.append(Proposal(_text(sizes), policy, count, tokens, self.at(sizes, policy, count)))
                if min(found, key=lambda one: one.estimate.seconds) is found[-1]:
                    fastest = i
                if count == 1:
                    break
        return sorted(found, key=lambda one: one.estimate.seconds)[:wanted]

    def meshes(self) -> Iterator[Sizes]:
        """Candidates: powers of two, and what divides the rest into powers of two, that divide rows and parameters evenly."""
        chosen = {"tensor": self.reach, "expert": self.devices, "fsdp": self.devices}
        free = {axis: most for axis, most in chosen.items() if axis not in self.fixed}
        rest = self.devices // math.prod(self.fixed.values())
        if rest * math.prod(self.fixed.values()) != self.devices:
            return
        for sizes in _products(list(free.items()), rest):
            left = rest // math.prod(sizes.values())
            sizes = {"data": left} | sizes | self.fixed
            rows = math.prod(sizes.get(axis, 1) for axis in sharding.RULES["batch"])
            if math.prod(sizes.values()) == self.devices and self.plan.batches.full % rows == 0 and self._even(sizes):
                yield {axis: sizes.get(axis, 1) for axis in sharding.MESH_AXES}

    def at(self, sizes: Sizes, policy: str, count: int) -> Estimate:
        """The estimate of a candidate."""
        key = (_text(sizes), policy, count)
        if key not in self._estimates:
            traced = self._traced(sizes, policy, count)
            mesh = sharding.abstract_mesh(_text(sizes), self.devices, self.accelerator.kind)
            self._estimates[key] = estimates.placed(traced, mesh, self.accelerator)
        return self._estimates[key]

    def _fits(self, *candidate: Any) -> bool:
        found = self.at(*candidate)
        return found.bytes * self.excess <= found.room

    def _traced(self, sizes: Sizes, policy: str, count: int) -> estimates.Traced:
        shared = sizes["data"] * sizes["fsdp"]
        if shared >= 4 and shared % 2 == 0:
            sizes = sizes | {"data": shared // 2, "fsdp": 2}
        key = (_text(sizes), policy)
        if (*key, count) not in self._traces:
            execution = dataclasses.replace(self.plan.execution, remat=policy)
            plan = dataclasses.replace(self.plan, execution=execution, microbatch=self.plan.batches.full // count)
            mesh = sharding.abstract_mesh(key[0], self.devices, self.accelerator.kind)
            if key not in self._trainers:
                self._trainers[key] = make_trainer(plan, mesh)
            self._traces[*key, count] = estimates.trace(plan, mesh, self._trainers[key])
        return self._traces[*key, count]

    def _fewest(self, sizes: Sizes, policy: str, counts: list[int]) -> int | None:
        """Of these numbers of microbatches the lowest with which it fits."""
        if self._fits(sizes, policy, counts[0]):
            return counts[0]
        if len(counts) == 1 or not self._fits(sizes, policy, counts[-1]):
            return None
        most, least = (self.at(sizes, policy, count) for count in (counts[0], counts[-1]))
        for count in counts[1:-1]:
            # Memory of activations goes with rows; with several microbatches there is some more, so that this is too little.
            share = (1 / count - 1 / counts[-1]) / (1 - 1 / counts[-1])
            guess = least.bytes + share * (most.bytes - least.bytes)
            if guess * self.excess <= least.room and self._fits(sizes, policy, count):
                return count
        return counts[-1]

    def _counts(self, sizes: Sizes) -> list[int]:
        """Numbers of microbatches that every batch of the ramp falls into."""
        rows = math.prod(sizes.get(axis, 1) for axis in sharding.RULES["batch"])
        smaller = [max(rows, size // rows * rows) for size, _ in self.plan.batches.stages]
        full = self.plan.batches.full

        def divides(part: int) -> bool:
            return all(size <= part or size % part == 0 for size in smaller)

        return [count for count in _factors(full // rows) if divides(full // count)]

    def _room_for_state(self, sizes: Sizes) -> bool:
        mesh = sharding.abstract_mesh(_text(sizes), self.devices, self.accelerator.kind)
        room = estimates.USABLE * self.accelerator.memory / self.accelerator.devices
        return estimates.bytes_of(self.base.abstract, self.base.shardings_on(mesh)) < room

    def _even(self, sizes: Sizes) -> bool:
        for name, size in self.named:
            over = math.prod(sizes.get(axis, 1) for axis in sharding.RULES[name] if axis not in self.fixed)
            if size % over:
                return False
        # Experts that there are not are no reason for an axis of their own.
        return "expert" in self.fixed or sizes["expert"] == 1 or any(name == "experts" for name, _ in self.named)

    def _slices(self) -> int:
        """How many slices so many devices are."""
        if self.accelerator.links == 1:
            return 1
        chips = self.devices / self.accelerator.devices
        return next(n for n in range(1, self.devices + 1) if self.devices % n == 0 and chips / n <= self.accelerator.group)


def nearest(plan: Plan, sizes: Sizes, accelerator: Accelerator, **how: Any) -> str:
    """What to change so that a step on this mesh fits, in words: its remat and microbatches, its mesh, or the devices.

    `how`: see `Search`.
    """
    devices = math.prod(sizes.values())
    for fixed, policies in ((sizes, POLICIES), ({}, POLICIES[-1:])):
        for one in Search(plan, devices, accelerator, fixed, **how).proposals(policies, 1, _PATIENCE):
            return f"try {one.arguments if one.mesh != _text(sizes) else one.arguments.partition(' ')[2]}"
    return larger(plan, devices, accelerator, **how)


def larger(plan: Plan, devices: int, accelerator: Accelerator, **how: Any) -> str:
    """What to change where no mesh of so many devices is enough, in words."""
    rows = plan.batches.full
    if not any(Search(plan, devices, accelerator, **how).meshes()):
        return f"no mesh divides {rows} sequences and the parameters among {devices} devices: try a batch of a power of two"
    while devices < _MOST:
        devices *= 2
        for one in Search(plan, devices, accelerator, **how).proposals(POLICIES[-1:], 1, _PATIENCE):
            return f"no mesh of fewer devices is enough: try {devices} with {one.arguments}"
    return f"{_MOST} devices are not enough either: take fewer rows or a shorter context"


def fixed_sizes(text: str, devices: int) -> Sizes:
    """The sizes that a part of a mesh says, such as tensor:8. Raises UserError."""
    named = [part.partition(":")[0].strip() for part in text.split(",") if part]
    rest = next(axis for axis in sharding.MESH_AXES if axis not in named)
    sizes = sharding.parse_mesh(f"{text},{rest}:-1", devices)
    return {axis: sizes[axis] for axis in named}


def _text(sizes: Sizes) -> str:
    return ",".join(f"{axis}:{size}" for axis, size in sizes.items() if size > 1) or "data:1"


def _factors(number: int) -> list[int]:
    """Those that are a power of two, or what is left is."""
    power = lambda n: n & (n - 1) == 0  # noqa: E731
    return [n for n in range(1, number + 1) if number % n == 0 and (power(n) or power(number // n))]


def _products(axes: list[tuple[str, int]], devices: int) -> Iterator[Sizes]:
    """Sizes of these axes, each at most so large, whose product divides the devices."""
    if not axes:
        yield {}
        return
    (axis, most), *others = axes
    for size in _factors(devices):
        if size <= most:
            for sizes in _products(others, devices // size):
                yield {axis: size} | sizes


def _leaves(declared) -> list[Declared]:
    return jax.tree.leaves(declared, is_leaf=lambda leaf: isinstance(leaf, Declared))
