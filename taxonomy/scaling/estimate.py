"""What a training step needs and how long it takes on a mesh of accelerators, told from its trace: no device, no compiler.

State is exact; memory beside it, FLOPs and what moves between devices follow the trace (`tracing`). Time is a model of three
ceilings. Products reach a share of the peak; gathers and scatters of parameters and gradients go on beside them; sums and exchanges
of activations stand in their way.
"""

import dataclasses
import math
from typing import Any

import jax

from taxonomy import sharding
from taxonomy.scaling import tracing
from taxonomy.scaling.accelerators import Accelerator
from taxonomy.scaling.accounting import train_flops_per_token
from taxonomy.scaling.placement import Place, Rules
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import Plan, abstract_batch
from taxonomy.training.step import Trainer

# The share of the peak that large products of a training step reach, with what stands between them.
EFFICIENCY = 0.75
# The share of a chip's memory that a program may use; the rest is the runtime's.
USABLE = 0.96


@dataclasses.dataclass(frozen=True)
class Moved:
    """All collectives of one kind over the same mesh axes. bytes: of one device's results. seconds: of sending them."""

    kind: str
    axes: tuple[str, ...]
    bytes: float
    seconds: float
    beside: bool


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one step. Bytes and FLOPs are those of one device.

    temporary: gradients and activations. flops: what is computed, with recomputation, what masks leave out and what stages compute
    in vain. model_flops: what the model needs, see `accounting`. touched: bytes that products read and write.
    """

    devices: int
    parameters: int
    optimizer: int
    batch: int
    temporary: float
    flops: float
    model_flops: float
    touched: float
    moved: tuple[Moved, ...]
    alive: tuple[tuple[float, str], ...]
    accelerator: Accelerator

    @property
    def arguments(self) -> int:
        """What the step is given, with its learning rate."""
        return self.parameters + self.optimizer + self.batch + 4

    @property
    def bytes(self) -> float:
        return self.arguments + self.temporary

    @property
    def room(self) -> float:
        """Bytes of a device's memory that a program may use."""
        return USABLE * self.accelerator.memory / self.accelerator.devices

    @property
    def fits(self) -> bool:
        return self.bytes <= self.room

    @property
    def compute_seconds(self) -> float:
        one = self.accelerator
        return max(self.flops / (EFFICIENCY * one.flops), self.touched / one.bandwidth) * one.devices

    @property
    def seconds(self) -> float:
        """Of the step."""
        beside = sum(one.seconds for one in self.moved if one.beside)
        return max(self.compute_seconds, beside) + sum(one.seconds for one in self.moved if not one.beside)

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation: the model's own FLOPs as a share of the peak (Chowdhery et al. 2022, arXiv:2204.02311)."""
        return self.model_flops * self.accelerator.devices / self.accelerator.flops / self.seconds

    @property
    def intensity(self) -> float:
        """FLOPs for each byte that products touch."""
        return self.flops / self.touched


@dataclasses.dataclass(frozen=True)
class Traced:
    """The step of the full batch. jaxpr: its trace. model_flops: see `Estimate`, here of all devices."""

    plan: Plan
    trainer: Trainer
    batch: dict[str, jax.ShapeDtypeStruct]
    jaxpr: Any
    model_flops: float


def estimate(plan: Plan, mesh: jax.sharding.AbstractMesh, accelerator: Accelerator) -> Estimate:
    """The step of the full batch on this mesh."""
    return placed(trace(plan, mesh), mesh, accelerator)


def trace(plan: Plan, mesh: jax.sharding.AbstractMesh, trainer: Trainer | None = None) -> Traced:
    """The step as it is traced on this mesh."""
    trainer, batch = trainer or make_trainer(plan, mesh), abstract_batch(plan, plan.batches.full)
    jaxpr = trainer.trace(batch, plan.most_microbatches).jaxpr
    tokens = plan.batches.full * plan.context
    model_flops = train_flops_per_token(plan.model, plan.context, "order" in plan.objective.gives) * tokens
    return Traced(plan, trainer, batch, getattr(jaxpr, "jaxpr", jaxpr), model_flops)


def placed(traced: Traced, mesh: jax.sharding.AbstractMesh, accelerator: Accelerator) -> Estimate:
    """The same step on a mesh that differs from the trace's at most in which of the axes data and fsdp divide a batch's rows."""
    # What stands between blocks is left in parts where it is divided.
    scattered = ("fsdp",) if traced.plan.execution.stream == "whole" else ("fsdp", "tensor")
    rules, own = Rules(dict(mesh.shape), scattered), sharding.batch_sharding(mesh)
    trainer, batch = traced.trainer, traced.batch
    shardings = trainer.shardings_on(mesh)
    places = [
        Place.of(place.spec, len(array.shape))
        for array, place in zip(jax.tree.leaves(trainer.abstract), jax.tree.leaves(shardings), strict=True)
    ]
    places += [Place.of(own.spec, len(array.shape)) for array in jax.tree.leaves(batch)]
    cost, *_ = tracing.cost(traced.jaxpr, [rules.real(place) for place in (*places, Place(()))], rules)
    parameters, state = bytes_of(trainer.abstract.params, shardings.params), bytes_of(trainer.abstract, shardings)
    return Estimate(
        devices=mesh.size,
        parameters=parameters,
        optimizer=state - parameters,
        batch=sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) // sharding.batch_divisor(mesh),
        temporary=cost.peak,
        flops=cost.flops,
        model_flops=traced.model_flops / mesh.size,
        touched=cost.touched,
        moved=tuple(_moved(cost, rules, accelerator)),
        alive=cost.alive,
        accelerator=accelerator,
    )


def bytes_of(abstract: Any, shardings: Any) -> int:
    """Of one device's part of arrays."""

    def one(array, place) -> int:
        # A key is two words.
        size = 8 if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) else array.dtype.itemsize
        return math.prod(place.shard_shape(array.shape)) * size

    return sum(jax.tree.leaves(jax.tree.map(one, abstract, shardings)))


def _moved(cost: tracing.Cost, rules: Rules, accelerator: Accelerator):
    total: dict[tuple, list[float]] = {}
    for move, count in cost.moved.items():
        axes = tuple(axis for axis in sharding.MESH_AXES if axis in move.axes)
        # Neighbours are those along the last axes of the mesh.
        inner = sharding.MESH_AXES[sharding.MESH_AXES.index(axes[0]) :] if axes else ()
        torus = accelerator.links > 1 and rules.over(inner) / accelerator.devices <= accelerator.group
        speed = accelerator.sending(rules.over(inner) / accelerator.devices) / accelerator.devices
        size, seconds = total.setdefault((move.kind, axes), [0.0, 0.0])
        total[move.kind, axes] = [
            size + count * move.elements * move.itemsize,
            seconds + count * tracing.sent(move, rules, torus) / speed,
        ]
    for (kind, axes), (size, seconds) in sorted(total.items(), key=lambda item: -item[1][1]):
        # Parameters are gathered, and gradients added up, while something else is computed; a stage waits for the one before.
        beside = kind != "collective-permute" and not set(axes) & {"tensor", "expert", "sequence"}
        yield Moved(kind, axes, size, seconds, beside)
