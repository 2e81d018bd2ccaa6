"""The training step compiled for TPU slices that are not there, by their own compiler."""

import collections
import dataclasses
import math
import os
import re
import time

import jax

from taxonomy import sharding
from taxonomy.errors import UserError
from taxonomy.scaling import accelerators
from taxonomy.scaling.accelerators import Accelerator
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import Plan, abstract_batch

_COLLECTIVE = re.compile(r"\b(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice, or several alike with a network between them: a slice's name for the compiler, and what all consist of."""

    one: str
    accelerator: Accelerator
    devices: int
    slices: int = 1

    @property
    def name(self) -> str:
        return f"{self.slices}*{self.one}" if self.slices > 1 else self.one

    @property
    def around(self) -> int:
        """Devices along the longest way around a slice's torus."""
        return max(map(int, self.one.partition(":")[2].split("x"))) * self.accelerator.devices


class TooLarge(UserError):
    """The compiler found that a step does not fit. temporary: bytes beside the arguments, where it says how many."""

    def __init__(self, text: str):
        super().__init__(text)
        used = re.search(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds", text)
        self.temporary = float(used[1]) * 2 ** (10 * " KMGT".index(used[2] or " ")) if used else None


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says: bytes of a device, collectives by kind and kernels (a loop's once), seconds that it took."""

    peak: int
    arguments: int
    temporary: int
    collectives: dict[str, int]
    kernels: int
    seconds: float


def parse(text: str) -> Slice:
    """A slice from "v4:4x4x4", two from "2*v4:4x4x4". Raises UserError."""
    found = re.fullmatch(r"(?:([1-9]\d*)\*)?(\w+):([1-9]\d*(?:x[1-9]\d*)+)", text)
    if not found:
        raise UserError(f"--topology: expected a generation and a shape, such as v4:4x4x4, v5e:16x16 or 2*v4:4x4x4, got {text!r}")
    slices, name, shape = int(found[1] or 1), found[2], found[3]
    accelerator = accelerators.find(name, "--topology")
    if not accelerator.kind.startswith("TPU"):
        raise UserError(f"--topology: {name} is no TPU; give --accelerator={name} and --mesh")
    chips = math.prod(map(int, shape.split("x")))
    if slices > 1:  # what leaves one takes the network
        accelerator = dataclasses.replace(accelerator, group=chips)
    return Slice(f"{accelerator.name}:{shape}", accelerator, slices * chips * accelerator.devices, slices)


def compile_step(plan: Plan, where: Slice) -> Compiled:
    """The step of the full batch. Raises TooLarge, and UserError without libtpu and for what the compiler refuses."""
    from jax.experimental import topologies

    started = time.perf_counter()
    devices = _devices(topologies, where)
    # Least effort: the memory is the same, in a tenth of the time.
    before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", "O0")
    try:
        # What a run on the slice itself would choose.
        chosen = "ragged" if plan.execution.experts == "auto" else plan.execution.experts
        plan = dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, experts=chosen))
        trainer = make_trainer(plan, sharding.make_mesh(plan.config.mesh, devices))
        lowered = trainer.lower(abstract_batch(plan, plan.batches.full), plan.most_microbatches, "tpu")
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
        kind = TooLarge if "RESOURCE_EXHAUSTED" in str(e) else UserError
        raise kind(f"--topology: the compiler says: {str(e).splitlines()[0]}") from None
    finally:
        jax.config.update("jax_optimization_level", before)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return Compiled(
        peak=memory.peak_memory_in_bytes,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        collectives=dict(collections.Counter(_COLLECTIVE.findall(text))),
        kernels=text.count('custom_call_target="tpu_custom_call"'),
        seconds=time.perf_counter() - started,
    )


def _devices(topologies, where: Slice) -> list:
    # Without these the library looks for a machine of Google's, and for a TPU that nobody else uses.
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # of no matter which slice: it has to be one
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    one_core = {} if where.accelerator.devices > 1 or where.accelerator.name in ("v5e", "v6e") else {"chip_config_name": "megacore"}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=where.one, num_slices=where.slices, **one_core)
        return list(described.devices)
    except Exception as e:  # of many kinds: no library, an unknown shape
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UserError(f"--compile: no compiler for {where.name} ({reason}); it comes with pip install '.[tpu]'") from None
