"""A config read into typed parts, with every mistake found before any device work."""

import dataclasses
import math
from typing import Any

import jax
import ml_collections

from taxonomy import model, registry, sharding, spec
from taxonomy.data.mixture import Mixture
from taxonomy.errors import UserError, nearest
from taxonomy.layers.experts import IMPLEMENTATIONS
from taxonomy.notation import Layers
from taxonomy.objectives.causal import Causal
from taxonomy.objectives.objective import Lengths, Objective, check
from taxonomy.ops.losses import Loss
from taxonomy.sharding import STREAMS
from taxonomy.stack import check_remat
from taxonomy.training.optimizers import Optimizer
from taxonomy.training.parts import Parts
from taxonomy.training.schedules import BatchPlan, Duration, Progress, Schedule

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will do. Durations are resolved to steps."""

    config: ml_collections.ConfigDict
    model: spec.Model
    execution: model.Execution
    optimizer: Optimizer
    schedule: Schedule
    objective: Objective
    loss: Loss
    source: Any
    context: int
    batches: BatchPlan
    microbatch: int
    steps: int
    evaluate_every: int
    checkpoint_every: int

    @property
    def parts(self) -> Parts:
        """What rows may come from."""
        return Parts(self.source.labels if isinstance(self.source, Mixture) else (), self.objective.labels)

    @property
    def lengths(self) -> Lengths:
        """Tokens an example has room for."""
        return Lengths(self.context, self.model.inputs if len(self.model.stacks) > 1 else None)

    def tokens_before(self, step: int) -> int:
        """Tokens of all steps before this one."""
        return self.batches.before(step) * self.context

    def progress(self, step: int) -> Progress:
        return Progress(step, self.tokens_before(step), self.steps, self.tokens_before(self.steps))

    def learning_rate(self, step: int) -> float:
        return self.schedule(self.progress(step))

    def microbatches(self, step: int) -> int:
        """How many parts the step's batch is computed in."""
        return max(1, math.ceil(self.batches.sequences(step) / self.microbatch))

    @property
    def most_microbatches(self) -> int:
        """How many parts the full batch is computed in."""
        return max(1, math.ceil(self.batches.full / self.microbatch))


def make_plan(config: ml_collections.ConfigDict, devices: int) -> Plan:
    """Reads every field of the config. Raises UserError naming the first one that is wrong."""
    train = config.train
    parsed = spec.model(config.model.to_dict())
    for key, value, allowed in (
        ("dtype", train.dtype, DTYPES),
        ("experts", train.experts, IMPLEMENTATIONS),
        ("stream", train.stream, STREAMS),
    ):
        if value not in allowed:
            raise UserError(f"config.train.{key}: unknown value {value!r}{nearest(value, allowed)}")
    named = parsed.blocks if parsed.generator is None else (*parsed.blocks, *parsed.generator.blocks)
    check_remat(train.remat, dict(named), "config.train.remat")
    context = train.context or parsed.context
    if context < 1 or (context > parsed.context and _has_table(parsed)):
        raise UserError(f"config.train.context: {context}; the model's learned positions allow 1 to {parsed.context}")
    full = train.batch_tokens // context
    if full < 1 or train.batch_tokens % context:
        allowed = f"a multiple of the context {context}"
        raise UserError(f"config.train.batch_tokens: must be {allowed}, got {train.batch_tokens}")

    stages: tuple[tuple[int, int], ...] = ()
    if train.batch_ramp:
        stages = tuple(registry.create("batch_ramp", train.batch_ramp, "config.train.batch_ramp").stages(full, context))
    mesh = sharding.parse_mesh(config.mesh, devices)
    rows_of = {"model.inputs": parsed.inputs} if len(parsed.stacks) > 1 else {}
    sharding.check_lengths(mesh, {"train.context" if train.context else "model.context": context} | rows_of)
    rows = math.prod(mesh[axis] for axis in sharding.RULES["batch"])
    stages = tuple((max(rows, size // rows * rows), steps) for size, steps in stages)
    if full % rows:
        raise UserError(
            f"config.train.batch_tokens: {full} sequences of {context} do not divide over {rows} batch shards of the mesh"
        )
    _check_stream(train.stream, mesh, context, parsed.d_model)
    batches = BatchPlan(full, stages)
    sizes = [full, *(size for size, _ in stages)]
    microbatch = _microbatch(train.microbatch_tokens, context, rows, sizes)
    if mesh[sharding.STAGE] > 1:
        _check_stages(parsed, mesh[sharding.STAGE], train.scan)
        own = math.gcd(*(min(size, microbatch) // rows for size in sizes))
        _check_parts(train.pipeline_microbatches, mesh[sharding.STAGE], own)

    if (train.steps is None) == (train.tokens is None):
        raise UserError(f"config.train: give either steps or tokens, got steps={train.steps} and tokens={train.tokens}")
    steps = train.steps if train.steps is not None else batches.steps_for(train.tokens / context)
    if steps < 1:
        raise UserError(f"config.train.steps: at least 1 is needed, got {steps}")
    for key, value in (("train.log_every", train.log_every), ("checkpoint.keep", config.checkpoint.keep)):
        if value < 1:
            raise UserError(f"config.{key}: at least 1 is needed, got {value}")
    if train.clip is not None and not train.clip > 0:
        raise UserError(f"config.train.clip: must be above 0, got {train.clip}")
    for metric in config.evaluation.metrics:
        registry.create("metric", metric, "config.evaluation.metrics")
    if (train.ahead is None) != (parsed.ahead is None):
        wanted = "a weight for the loss of" if parsed.ahead else "not read by a model without"
        raise UserError(f"config.train.ahead: {wanted} the modules of model.ahead{' is required' if parsed.ahead else ''}")
    if train.ahead is not None and not train.ahead >= 0:
        raise UserError(f"config.train.ahead: must not be negative, got {train.ahead}")
    per_step = batches.before(steps) * context / steps
    return Plan(
        config=config,
        model=parsed,
        execution=model.Execution(**{f.name: train[f.name] for f in dataclasses.fields(model.Execution) if f.name in train}),
        optimizer=registry.create("optimizer", train.optimizer, "config.train.optimizer"),
        schedule=registry.create("schedule", train.schedule, "config.train.schedule"),
        objective=_objective(train.objective, parsed),
        source=_source(config, parsed),
        loss=registry.create("loss", train.loss, "config.train.loss"),
        context=context,
        batches=batches,
        microbatch=microbatch,
        steps=steps,
        evaluate_every=Duration.parse(config.evaluation.every, "config.evaluation.every").steps(steps, per_step),
        checkpoint_every=Duration.parse(config.checkpoint.every, "config.checkpoint.every").steps(steps, per_step),
    )


def abstract_batch(plan: Plan, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of so many sequences."""
    from taxonomy.data.examples import arrange

    empty = arrange([], plan.objective, plan.lengths, rows=1)
    if isinstance(plan.objective, Causal):
        del empty["weights"]
    return {name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype) for name, array in empty.items()}


def _check_stream(stream: str, mesh: dict[str, int], context: int, d_model: int) -> None:
    """Raises UserError when the residual stream cannot be divided as asked."""
    for name, size in zip(STREAMS[stream][1:], (context, d_model), strict=True):
        parts = math.prod(mesh[axis] for axis in sharding.RULES[name])
        if stream != "whole" and size % parts:
            raise UserError(f"config.train.stream: {stream!r} divides {size} over {parts} devices of the mesh, which leaves a rest")


def _objective(sentence: str, parsed: spec.Model) -> Objective:
    objective = registry.create("objective", sentence, "config.train.objective")
    try:
        check(objective, parsed.structure, parsed.generator is not None)
    except UserError as e:
        raise UserError(f"config.train.{e}") from None
    if parsed.detects and parsed.generator is None:
        raise UserError(f"model.generator: required by the head {parsed.head.name}, which tells its samples from the original")
    if objective.coordinates > 1:
        raise UserError(f"config.train.objective: no model here reads what {sentence} gives")
    if "order" in objective.gives and not parsed.ordered:
        raise UserError(f"config.train.objective: {sentence} gives an order, which no mask of this model reads (permutation does)")
    return objective


def _source(config: ml_collections.ConfigDict, parsed: spec.Model) -> Any:
    source = registry.create("source", config.data.source, "config.data.source")
    if config.report.compressors and isinstance(source, Mixture):
        raise UserError("config.report.compressors: they compress one dataset, but config.data.source is a mixture")
    datasets = len(source.labels) if isinstance(source, Mixture) else 1
    for part in parsed.components():
        if getattr(registry.find((part.kind,), part.name).factory, "labelled", False) and datasets > part["experts"]:
            raise UserError(f"config.data.source: {datasets} datasets, but the router {part.name} has {part['experts']} experts")
    return source


def _has_table(parsed: spec.Model) -> bool:
    return any(part.kind == "position" and part.name == "learned" for part in parsed.components())


def _check_stages(parsed: spec.Model, stages: int, scan: bool) -> None:
    """The largest repeat of every stack has to divide over stages; smaller ones that do not are computed as if there were none."""
    if not scan:
        raise UserError(
            f"config.train.scan: must be true with stage:{stages} on the mesh, whose stages are turns of scanned repeats"
        )
    generator = parsed.generator.stacks.items() if parsed.generator else ()
    for name, layers in (*parsed.stacks.items(), *((f"generator.{name}", layers) for name, layers in generator)):
        repeats = [item for item in layers.items if not isinstance(item, str)]
        if not repeats:
            raise UserError(f"config.mesh: axis 'stage' divides repeated layers, as in '24*block'; model.{name} is '{layers}'")
        largest = max(repeats, key=lambda repeat: repeat.count * len(repeat.body))
        if largest.count % stages:
            allowed = ", ".join(str(n) for n in range(1, largest.count + 1) if largest.count % n == 0)
            group = Layers((largest,))
            raise UserError(f"config.mesh: axis 'stage' of {stages} does not divide '{group}' of model.{name} (allowed: {allowed})")


def _check_parts(wanted: int | None, stages: int, own: int) -> None:
    """`own`: the sequences of a microbatch on a device."""
    allowed = [stages * n for n in range(1, own + 1) if own % n == 0]
    if wanted is not None and wanted not in allowed:
        raise UserError(
            f"config.train.pipeline_microbatches: {wanted} does not divide a microbatch over {stages} stages "
            f"(allowed: {', '.join(map(str, allowed))})"
        )


def _microbatch(tokens: int | None, context: int, rows: int, sizes: list[int]) -> int:
    """Sequences per microbatch."""
    if tokens is None:
        return max(sizes)
    sequences = tokens // context
    bad = [size for size in sizes if size > sequences and size % max(1, sequences)]
    if sequences < 1 or tokens % context or sequences % rows or bad:
        raise UserError(
            f"config.train.microbatch_tokens: {tokens} must be a multiple of {context} x {rows} (context x batch shards) "
            f"that divides every batch ({', '.join(str(size * context) for size in sizes[:4])} tokens)"
        )
    return sequences
