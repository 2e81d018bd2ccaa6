"""Whether a run fits its accelerators and how fast it will be, before there are any.

    python -m taxonomy.plan --config=palm:540b --mesh=fsdp:256,tensor:24 --accelerator=v4         from the trace, in seconds
    python -m taxonomy.plan --config=palm:8b --mesh=fsdp:16,tensor:4 --topology=v4:4x4x4 --compile       by the TPU's own compiler

Exit code 2 when it does not fit.
"""

import dataclasses
import json
import sys
from typing import Any

from absl import flags

from taxonomy import cli
from taxonomy.errors import BAD_INPUT, UserError

_MESH = flags.DEFINE_string("mesh", None, "Instead of config.mesh, such as fsdp:64,tensor:4; all sizes but those of --devices=N.")
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Devices of the mesh; by default as many as its sizes say, or the topology has.", lower_bound=1
)
_ACCELERATOR = flags.DEFINE_string(
    "accelerator", None, "What the devices are: v4, v5e, v5p, v6e, tpu7x, a100, h100, h200, b200, ..."
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "A TPU slice, such as v4:4x4x4 or v5e:16x16, which says accelerator and devices.")
_COMPILE = flags.DEFINE_bool(
    "compile", False, "Also compile the very step for the topology; needs libtpu (the extra [tpu]), no TPU."
)
_JSON = flags.DEFINE_bool("json", False, "One line of JSON.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --config=palm:540b")
    import jax

    # Nothing here is computed; an accelerator may be busy with a run.
    jax.config.update("jax_platforms", "cpu")
    from taxonomy import sharding
    from taxonomy.scaling import accelerators, topology
    from taxonomy.scaling.estimate import estimate
    from taxonomy.training.plan import make_plan

    config = cli.config()
    if _MESH.value is not None:
        config.mesh = _MESH.value
    slice_ = topology.parse(_TOPOLOGY.value) if _TOPOLOGY.value else None
    if slice_ and _ACCELERATOR.value not in (None, slice_.accelerator.name):
        raise UserError(f"--accelerator: {_ACCELERATOR.value}, but --topology says {slice_.accelerator.name}")
    if slice_ and _DEVICES.value not in (None, slice_.devices):
        raise UserError(f"--devices: {_DEVICES.value}, but --topology={slice_.name} has {slice_.devices}")
    if not slice_ and not _ACCELERATOR.value:
        raise UserError(f"--accelerator: required without --topology (allowed: {', '.join(accelerators.ACCELERATORS)})")
    if _COMPILE.value and not slice_:
        raise UserError("--compile: needs a --topology to compile for, such as v4:4x4x4")
    accelerator = slice_.accelerator if slice_ else accelerators.find(_ACCELERATOR.value)
    devices = slice_.devices if slice_ else _DEVICES.value or sharding.devices_of(config.mesh)
    plan = make_plan(config, devices)
    found = estimate(plan, sharding.abstract_mesh(config.mesh, devices, accelerator.kind), accelerator)
    result = _described(config, plan, found)
    if not _JSON.value:
        _show(result, found)
    fits, needed = found.fits, found.bytes
    if _COMPILE.value:
        print(f"compiling for {slice_.name}", file=sys.stderr, flush=True)
        compiled = topology.compile_step(plan, slice_)
        # The compiler has the last word.
        fits, needed = True, compiled.peak
        result |= {"compiled": dataclasses.asdict(compiled), "fits": fits}
        if not _JSON.value:
            _show_compiled(compiled)
    if _JSON.value:
        print(json.dumps(result))
    if not fits:
        short = (needed - found.room) / 1e9
        print(f"error: does not fit: {short:.2f} GB short on each device; {_advice(config, plan, found)}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _described(config: Any, plan: Any, found: Any) -> dict[str, Any]:
    return {
        "config": config.name,
        "mesh": config.mesh,
        "devices": found.devices,
        "accelerator": found.accelerator.name,
        "batch_tokens": plan.batches.full * plan.context,
        "microbatches": plan.most_microbatches,
        "remat": plan.execution.remat,
        "bytes": {
            "parameters": found.parameters,
            "optimizer": found.optimizer,
            "batch": found.batch,
            "gradients_and_activations": round(found.temporary),
            "total": round(found.bytes),
            "room": round(found.room),
        },
        "fits": found.fits,
        "flops": found.flops,
        "model_flops": found.model_flops,
        "flops_per_byte": found.intensity,
        "moved": [dataclasses.asdict(one) for one in found.moved],
        "seconds": {"compute": found.compute_seconds, "step": found.seconds},
        "tokens_per_second": plan.batches.full * plan.context / found.seconds,
        "model_flops_utilisation": found.utilisation,
        "days": plan.tokens_before(plan.steps) / (plan.batches.full * plan.context) * found.seconds / 86400,
    }


def _show(result: dict[str, Any], found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from taxonomy.describe import size

    table = Table(
        title=f"{result['config']} on {result['devices']} x {result['accelerator']}, {result['mesh']}", title_justify="left"
    )
    table.add_column("on each device")
    table.add_column("", justify="right")
    for name, count in result["bytes"].items():
        table.add_row(name.replace("_", " "), size(count, "B"), end_section=name in ("gradients_and_activations", "room"))
    table.add_row("FLOPs computed / of the model", f"{size(found.flops, 'FLOP')} / {size(found.model_flops, 'FLOP')}")
    table.add_row("FLOPs a byte that products touch", f"{found.intensity:.0f}", end_section=True)
    for one in found.moved:
        if one.seconds > 1e-4:
            table.add_row(
                f"{one.kind} over {', '.join(one.axes)}",
                f"{size(one.bytes, 'B')}, {one.seconds:.3f} s{' beside' if one.beside else ''}",
            )
    table.add_row("products", f"{found.compute_seconds:.3f} s", end_section=True)
    table.add_row("a step", f"{found.seconds:.3f} s")
    table.add_row("tokens per second", f"{result['tokens_per_second']:,.0f}")
    table.add_row("model FLOPs utilisation", f"{found.utilisation:.1%}")
    table.add_row("all steps", f"{result['days']:.1f} days")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        "the largest arrays at the peak: " + ", ".join(f"{name} {size(count, 'B')}" for count, name in found.alive[:4]),
        highlight=False,
    )


def _show_compiled(compiled: Any) -> None:
    from taxonomy.describe import size

    collectives = ", ".join(f"{count} {kind}" for kind, count in compiled.collectives.items()) or "no collectives"
    print(
        f"the compiler: fits, peak memory {size(compiled.peak, 'B')} ({size(compiled.arguments, 'B')} of arguments), {collectives} "
        f"and {compiled.kernels or 'no'} kernels (a loop's once); compiled in {compiled.seconds:.0f} s"
    )


def _advice(config: Any, plan: Any, found: Any) -> str:
    """What to change first."""
    if found.arguments > found.room:
        return "parameters and optimizer alone are too large: give fsdp or tensor more devices"
    if plan.execution.remat != "full":
        return "try --config.train.remat=full"
    from taxonomy import sharding

    rows = sharding.batch_divisor(sharding.abstract_mesh(config.mesh, found.devices))
    full, now = plan.batches.full, plan.microbatch
    for size in sorted((n for n in range(rows, now, rows) if full % n == 0), reverse=True):
        if found.arguments + found.temporary * size / now <= found.room:
            return f"try --config.train.microbatch_tokens={size * plan.context}"
    return "even the smallest microbatches are too large: give tensor more devices, or take fewer rows or a shorter context"


if __name__ == "__main__":
    cli.run(main)
