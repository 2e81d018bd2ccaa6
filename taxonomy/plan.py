"""Whether a run fits its accelerators and how fast it will be, before there are any.

    python -m taxonomy.plan --config=palm:540b --mesh=fsdp:256,tensor:24 --accelerator=v4         from the trace, in seconds
    python -m taxonomy.plan --config=palm:8b --mesh=fsdp:16,tensor:4 --topology=v4:4x4x4 --compile       by the TPU's own compiler
    python -m taxonomy.plan --config=palm:62b --topology=v4:4x4x8 --search                             what fits, the fastest first

Exit code 2 when it does not fit.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
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
_TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slices, v4:4x4x4 or 2*v4:4x4x4, which say accelerator and devices.")
_COMPILE = flags.DEFINE_bool(
    "compile", False, "Also compile the very step for the topology; needs libtpu (the extra [tpu]), no TPU."
)
_SEARCH = flags.DEFINE_bool(
    "search", False, "Propose meshes, remat and microbatches that fit, the fastest first; --mesh=tensor:8 keeps what it says."
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
    reach = max(8, slice_.around) if slice_ else None
    if _SEARCH.value:
        if _COMPILE.value:
            raise UserError("--search: compiles nothing; give --compile with the mesh that it finds")
        if not slice_ and _DEVICES.value is None:
            raise UserError("--search: needs --topology, or --devices with --accelerator")
        _search(config, slice_.devices if slice_ else _DEVICES.value, accelerator, reach)
        return
    devices = slice_.devices if slice_ else _DEVICES.value or sharding.devices_of(config.mesh)
    plan = make_plan(config, devices)
    mesh = sharding.abstract_mesh(config.mesh, devices, accelerator.kind)
    found = estimate(plan, mesh, accelerator)
    result = _described(config, plan, found)
    if not _JSON.value:
        _show(result, found)
    fits, needed, refused = found.fits, found.bytes, ""
    if _COMPILE.value:
        print(f"compiling for {slice_.name}", file=sys.stderr, flush=True)
        try:
            compiled = topology.compile_step(plan, slice_)
        except topology.TooLarge as e:
            needed = found.bytes if e.temporary is None else found.arguments + e.temporary
            fits, refused = False, f"{e}; "
        else:
            # The compiler has the last word.
            fits, needed = True, compiled.peak
            result |= {"compiled": dataclasses.asdict(compiled)}
            if not _JSON.value:
                _show_compiled(compiled)
    result |= {"fits": fits}
    if _JSON.value:
        print(json.dumps(result))
    if not fits:
        from taxonomy.scaling import search

        short = f"does not fit: {(needed - found.room) / 1e9:.2f} GB short on each device"
        with _progress("looking for what fits") as say:
            # What the compiler needs beyond the estimate, anything else will need too.
            advice = search.nearest(plan, dict(mesh.shape), accelerator, reach=reach, excess=max(1, needed / found.bytes), say=say)
        print(f"error: {refused}{short}; {advice}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _search(config: Any, devices: int, accelerator: Any, reach: int | None) -> None:
    from taxonomy.scaling import search
    from taxonomy.training.plan import make_plan

    fixed = search.fixed_sizes(_MESH.value, devices) if _MESH.value else {}
    # Candidates divide the batch in their own ways.
    config.mesh, config.train.microbatch_tokens = "data:1", None
    plan = make_plan(config, 1)
    with _progress("looking for what fits") as say:
        found = search.Search(plan, devices, accelerator, fixed, reach, say=say).proposals()
        if not found:
            advice = search.larger(plan, devices, accelerator, reach=reach, say=say)
            raise UserError(f"--search: nothing fits {devices} x {accelerator.name}; {advice}")
    rows = [_proposed(plan, one) for one in found]
    if _JSON.value:
        print(json.dumps({"config": config.name, "devices": devices, "accelerator": accelerator.name, "proposals": rows}))
        return
    _show_proposals(f"{config.name} on {devices} x {accelerator.name}, {plan.batches.full * plan.context:,} tokens a step", rows)
    print(f"the first one: {found[0].arguments}")


def _proposed(plan: Any, one: Any) -> dict[str, Any]:
    found = one.estimate
    return {
        "mesh": one.mesh,
        "remat": one.remat,
        "microbatches": one.microbatches,
        "microbatch_tokens": one.microbatch_tokens,
        "bytes": round(found.bytes),
        "room": round(found.room),
        "seconds": found.seconds,
        "tokens_per_second": plan.batches.full * plan.context / found.seconds,
        "model_flops_utilisation": found.utilisation,
    }


def _show_proposals(title: str, rows: list[dict[str, Any]]) -> None:
    from taxonomy.describe import size

    table = _table(title)
    for name in ("mesh", "remat"):
        table.add_column(name)
    for name in ("microbatches", "memory", "room", "a step", "tokens/s", "utilisation"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["mesh"],
            row["remat"],
            str(row["microbatches"]),
            size(row["bytes"], "B"),
            size(row["room"], "B"),
            f"{row['seconds']:.3f} s",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['model_flops_utilisation']:.1%}",
        )
    _console().print(table)


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[str], None]]:
    """Something to say what is going on with: one line that changes, or on no terminal a line every few seconds."""
    from rich.console import Console

    console, last = Console(stderr=True), time.monotonic()

    def line(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"{title}: {text}", file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield line
        return
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")


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
    from taxonomy.describe import size

    table = _table(f"{result['config']} on {result['devices']} x {result['accelerator']}, {result['mesh']}")
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
    console = _console()
    console.print(table)
    console.print(
        "the largest arrays at the peak: " + ", ".join(f"{name} {size(count, 'B')}" for count, name in found.alive[:4]),
        highlight=False,
    )


def _table(title: str) -> Any:
    from rich.table import Table

    return Table(title=title, title_justify="left")


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _show_compiled(compiled: Any) -> None:
    from taxonomy.describe import size

    collectives = ", ".join(f"{count} {kind}" for kind, count in compiled.collectives.items()) or "no collectives"
    print(
        f"the compiler: fits, peak memory {size(compiled.peak, 'B')} ({size(compiled.arguments, 'B')} of arguments), {collectives} "
        f"and {compiled.kernels or 'no'} kernels (a loop's once); compiled in {compiled.seconds:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
