"""One run: data, steps, evaluations, checkpoints, and a way to stop and go on."""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh

from taxonomy import config as config_lib
from taxonomy import distributed, registry, sharding
from taxonomy import model as model_lib
from taxonomy.errors import Diverged, Preempted, UserError
from taxonomy.objectives.causal import Causal
from taxonomy.objectives.objective import Specials
from taxonomy.objectives.pairs import Pairs
from taxonomy.scaling.accounting import train_flops_per_token
from taxonomy.training import checkpoints, metrics, origin
from taxonomy.training.parts import apart
from taxonomy.training.plan import Plan, make_plan
from taxonomy.training.step import Trainer


class StopSignal:
    """Remembers SIGTERM and SIGINT so that a run can end between two steps; several processes end at the same one.

    JAX tells all processes of a SIGTERM to any of them, and has them agree on a number of `asked` that all will reach.
    """

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._looks, self._together, self._interrupted = 0, distributed.several(), False

    def asked(self) -> bool:
        """Whether to end here. Of several processes all must ask equally often."""
        if self._together and self.received is None:
            self._looks += 1
            if multihost_utils.reached_preemption_sync_point(self._looks):
                self.received = signal.SIGTERM
        return self.received is not None

    def __enter__(self) -> "StopSignal":
        # With several processes SIGTERM is JAX's.
        for number in (signal.SIGINT,) if self._together else (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread, as in some notebooks
                self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if self._together:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone_in(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the workdir's lock; the system releases it when the process ends, however it ends.

    Of several processes the first holds it.
    """
    if not distributed.first():
        yield
        return
    with (workdir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--workdir: another run is using {workdir}") from None
        yield


def prepare_data(config: ml_collections.ConfigDict, say=print, tokenizer=None, splits=("train", "validation")):
    """The tokenised corpus of a config, from the cache when it was prepared before; with its own tokenizer or the one given."""
    from taxonomy.data.mixture import Mixture, prepare_mixture
    from taxonomy.data.prepare import Existing, prepare
    from taxonomy.data.storage import cache_directory

    source = registry.create("source", config.data.source, "config.data.source")
    recipe = Existing(tokenizer) if tokenizer else tokenizer_recipe(config)
    how = prepare_mixture if isinstance(source, Mixture) else prepare
    prepared = how(source, recipe, cache_directory() / "prepared", splits=splits, report=say)
    size = prepared.tokenizer.vocab_size
    if size > config.model.vocab:
        raise UserError(f"config.model.vocab: {config.model.vocab} is smaller than the tokenizer's vocabulary of {size}")
    return prepared


def prepared_tokens(config: ml_collections.ConfigDict) -> int | None:
    """Tokens of the train split of a config's corpus; None where it is not prepared yet, is a mixture or might be downloaded."""
    from taxonomy.data.mixture import Mixture
    from taxonomy.data.prepare import prepared_before
    from taxonomy.data.storage import cache_directory
    from taxonomy.data.tfds_source import Reader

    source = registry.create("source", config.data.source, "config.data.source")
    if isinstance(source, (Mixture, Reader)):
        return None
    try:
        prepared = prepared_before(source, tokenizer_recipe(config), cache_directory() / "prepared", splits=("train",))
    except UserError:  # it is not here yet
        return None
    return None if prepared is None else len(prepared.tokens("train"))


def tokenizer_recipe(config: ml_collections.ConfigDict):
    """How a config's tokenizer is found or learned."""
    scalars = {k: v for k, v in config.model.items() if type(v) is int}
    return registry.create("tokenizer", config.data.tokenizer, "config.data.tokenizer", **scalars)


def make_trainer(plan: Plan, mesh: Mesh | AbstractMesh | None = None) -> Trainer:
    """The compiled functions of a plan on the mesh of its config, or on another one."""
    train = plan.config.train
    module = model_lib.build(plan.model, **dataclasses.asdict(plan.execution))
    mesh = sharding.make_mesh(plan.config.mesh) if mesh is None else mesh
    trainer = Trainer(module, plan.optimizer, mesh, train.clip, plan.loss, plan.parts.shape, train.ahead)
    sharding.check_use(trainer.declared, mesh)
    return trainer


def make_examples(plan: Plan, prepared):
    """The endless stream of training examples, of all datasets: windows of text, or what the objective makes of them."""
    from taxonomy.data.mixture import Mixed, naming

    if not prepared.labels:
        return _examples(plan, prepared, plan.config.seed)
    seeds = np.random.SeedSequence(plan.config.seed).generate_state(len(prepared.parts)).tolist()
    streams = []
    for label, part, seed in zip(prepared.labels, prepared.parts, seeds, strict=True):
        with naming(label):
            streams.append(_examples(plan, part, seed))
    return Mixed(streams, prepared.shares, plan.config.seed, plan.parts.shape[1])


def _examples(plan: Plan, prepared, seed: int):
    from taxonomy.data import examples, pipeline

    tokens, separator = prepared.tokens("train"), prepared.separator
    # An encoder and a decoder read the halves of a pair without what stands between them.
    halves = isinstance(plan.objective, Pairs) and plan.lengths.inputs is not None
    if separator is not None and separator >= plan.model.vocab and not halves:
        allowed = f"at least {separator + 1} is needed"
        raise UserError(f"config.model.vocab: {plan.model.vocab} has no id for the separator of pairs; {allowed}")
    if isinstance(plan.objective, Causal):
        return pipeline.Windows(tokens, plan.context, seed, prepared.tokenizer.document_start)
    return examples.Examples(tokens, plan.objective, specials(plan, prepared), plan.lengths, seed)


def specials(plan: Plan, prepared) -> Specials:
    """What the plan's objective must know of the tokenizer. Raises UserError where it takes pairs and there are none."""
    from taxonomy.data import examples

    if isinstance(plan.objective, Pairs) and prepared.separator is None:
        raise UserError(f"config.train.objective: {plan.config.train.objective} takes pairs of texts; config.data.source has none")
    tokenizer = prepared.tokenizer
    return examples.specials(tokenizer, plan.model.vocab, end=tokenizer.document_end, separator=prepared.separator)


def train(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    init_from: str | None = None,
    progress: metrics.Progress | None = None,
    trainer: Callable[[Plan], Trainer] = make_trainer,
) -> "Run":
    """Trains from the newest good checkpoint of the workdir, or from the start. Returns the finished run.

    `init_from`: another run's workdir, whose parameters are the first ones, and whose tokenizer is used, see `origin`.
    `progress`: what is told how it goes. `trainer`: what makes the compiled functions, or has them from another run.
    """
    plan, workdir = make_plan(config, jax.device_count()), pathlib.Path(workdir)
    began = origin.find(workdir, init_from)
    tokenizer = origin.tokenizer(config, tokenizer_recipe(config), workdir, began) if began else None
    started = time.perf_counter()
    progress = progress or metrics.Progress()
    prepared = prepare_data(config, progress.say, tokenizer)
    windows = make_examples(plan, prepared)
    for part, label in zip(prepared.parts, prepared.labels or [config.data.source], strict=True):
        if len(part.tokens("validation")) < 2:
            raise UserError(f"config.data.source: {label} holds no text out for validation")
    shared = "what is in --workdir, which all share,"
    seen = str(checkpoints.Checkpoints(workdir).steps())
    distributed.agree({"--config": config_lib.to_json(config), "the data": prepared.fingerprint, shared: seen})
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone_in(workdir), StopSignal() as stop:
        run = Run(plan, prepared, windows, workdir, progress, stop, started, began, trainer)
        try:
            run.go()
        finally:
            run.close()
    return run


class Run:
    """The moving parts of a run."""

    def __init__(
        self,
        plan: Plan,
        prepared,
        windows,
        workdir: pathlib.Path,
        progress: metrics.Progress,
        stop: StopSignal,
        started: float,
        began: dict[str, Any] | None = None,
        trainer: Callable[[Plan], Trainer] = make_trainer,
    ):
        config = plan.config
        self.plan, self.prepared, self.windows, self.workdir = plan, prepared, windows, workdir
        self.progress, self.stop, self.started, self.began = progress, stop, started, began
        self.trainer = trainer(plan)
        self.saved = checkpoints.Checkpoints(workdir, config.checkpoint.keep, config.checkpoint.asynchronous)
        self.step = 0
        self.last_saved: int | None = None
        self.speeds: list[float] = []
        self._restore_or_start()
        self.log = metrics.Log(workdir, self.step)
        self.flops_per_token = train_flops_per_token(plan.model, plan.context, "order" in plan.objective.gives)
        self.peak = metrics.peak_flops()

    def _restore_or_start(self) -> None:
        config, check = self.plan.config, lambda meta: checkpoints.refuse_changed(meta["config"], self.plan.config)
        restored = self.saved.restore(self.trainer.abstract, self.trainer.shardings, check, self.progress.say)
        if restored:
            self.state, meta = restored
            self.step = self.last_saved = meta["step"]
            self.progress.say(f"resumed from step {self.step} of {self.workdir}")
        elif self.began:
            self.state, self.began = origin.begin(self.plan, self.trainer, self.began, self.progress.say)
        else:
            self.state = self.trainer.init(config.seed)
        if not distributed.first():
            return
        (self.workdir / "config.json").write_text(config_lib.to_json(config))
        (self.workdir / "manifest.json").write_text(
            json.dumps(checkpoints.manifest(sys.argv) | ({origin.KEY: self.began} if self.began else {}), indent=2)
        )
        self.prepared.tokenizer.save(self.workdir / "tokenizer")

    def go(self) -> None:
        """Trains to the end. Raises Preempted when stopped by a signal, Diverged when updates stay non-finite."""
        plan, pending = self.plan, None
        self._introduce()
        self._catch_up()
        order = ((plan.batches.before(s), plan.batches.sequences(s)) for s in range(self.step, plan.steps))
        self.window_start, self.window_tokens = None, 0
        with contextlib.closing(self.windows.stream(order, self.trainer.own)) as stream:
            for batch in stream:
                rate = plan.learning_rate(self.step)
                batch = self.trainer.put(batch, plan.batches.sequences(self.step))
                self.state, values = self.trainer.step(self.state, batch, rate, plan.microbatches(self.step))
                self.step += 1
                if pending:
                    self._note(*pending)
                pending = (self.step, rate, values)
                evaluating = self._is_evaluated(self.step)
                saving = self.step == plan.steps or self.step % plan.checkpoint_every == 0
                if self.stop.asked():
                    self._note(*pending, evaluate=evaluating)  # which breaks off at once
                    self._stop_here()
                if evaluating or saving:
                    self._note(*pending, evaluate=evaluating)
                    pending = None
                    if saving:
                        self._save()
                    if self.stop.received is not None:  # asked of the evaluation
                        self._stop_here()
                    self.window_start = None
        self.saved.close()

    def _is_evaluated(self, step: int) -> bool:
        return step == self.plan.steps or step % self.plan.evaluate_every == 0

    def _catch_up(self) -> None:
        """Evaluates the step that the run goes on from, if that was broken off."""
        lines = metrics.read(self.workdir) if self.step and self._is_evaluated(self.step) else []
        last = next((line for line in lines if line["step"] == self.step), None)
        if last is None or any(key.startswith("validation_") for key in last):
            return
        held_out = self._evaluate()
        if self.stop.received is not None:
            self._stop_here()
        self.log.amend(self.step, {f"validation_{k}": v for k, v in held_out.items()})

    def _introduce(self) -> None:
        plan, sizes = self.plan, self.trainer.abstract.params
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(sizes))
        left = plan.steps - self.step
        together = f" of {jax.process_count()} processes" if distributed.several() else ""
        self.progress.say(
            f"{plan.config.name}: {metrics.short(count)} parameters, {left} steps of {plan.batches.full} x {plan.context} tokens "
            f"on {jax.device_count()} {jax.devices()[0].device_kind} device(s){together}; compiling the step"
        )
        if self.prepared.labels:
            epochs = self.windows.epochs(plan.batches.before(plan.steps))
            drawn = zip(self.prepared.shares, self.prepared.labels, epochs, strict=True)
            self.progress.say("examples: " + "; ".join(f"{s:.1%} {label}, gone through {n:.3g} times" for s, label, n in drawn))

    def _note(self, step: int, rate: float, values: dict[str, jax.Array], evaluate: bool = False) -> None:
        """Looks at a step's metrics, one step late so that the device never waits for the host."""
        plan = self.plan
        skipped = int(values["skipped"])
        if skipped:
            self.progress.say(f"step {step}: loss or gradients are not finite; the update was left out ({skipped} in a row)")
            if skipped >= plan.config.train.max_skipped:
                raise Diverged(f"step {step}: {skipped} updates in a row were not finite; the last good checkpoint is kept")
        now, tokens, speed = time.perf_counter(), plan.tokens_before(step), None
        if self.window_start is None:  # the first step after a pause pays for it
            self.window_start, self.window_tokens = now, tokens
        else:
            speed = (tokens - self.window_tokens) / max(now - self.window_start, 1e-9)
        if not evaluate and step % plan.config.train.log_every and step != plan.steps:
            return
        share = speed * self.flops_per_token / self.peak if speed else None
        line = {
            **{k: np.asarray(v, float).tolist() for k, v in values.items() if k not in ("skipped", "parts")},
            **plan.parts.figures(*values["parts"]),
            "learning_rate": rate,
            "tokens_seen": tokens,
            "tokens_per_second": speed,
            "mfu": share if share is None or math.isfinite(share) else None,
            "seconds": now - self.started,
        }
        shown = f"step {step}/{plan.steps}  loss {line['loss']:.3f}  lr {rate:.1e}"
        if speed:
            self.speeds.append(speed)
            left = (plan.tokens_before(plan.steps) - tokens) / speed
            shown += f"  {metrics.short(speed)} tokens/s  {share:.0%} of peak  {metrics.clock(left)} left"
            self.window_start, self.window_tokens = now, tokens
        if evaluate:
            held_out = self._evaluate()
            line |= {f"validation_{k}": v for k, v in held_out.items()}
            if held_out:
                shown += f"\n  held out: loss {held_out['loss']:.3f}, "
                if "bits_per_byte" in held_out:
                    shown += f"{held_out['bits_per_byte']:.3f} bits per byte"
                else:
                    shown += f"{held_out['accuracy']:.1%} of the targets right"
                shown += "".join(f"; {part} {figures['loss']:.3f}" for part, figures in apart(held_out).items())
        self.log.write(step, line)
        self.progress.line(shown, always=evaluate)

    def _evaluate(self) -> dict[str, float]:
        """The validation figures of the current parameters; none when the run was asked to stop meanwhile."""
        return evaluate(self.trainer, self.state.params, self.prepared, self.plan, self.evaluation_tokens, self.stop) or {}

    @property
    def evaluation_tokens(self) -> float:
        """How many tokens an evaluation during training takes."""
        return self.plan.config.evaluation.max_tokens or min(1e6, 8 * self.plan.config.train.batch_tokens)

    def _save(self) -> None:
        if self.last_saved == self.step:  # perhaps still on its way to disk
            return
        plan, self.last_saved = self.plan, self.step
        self.saved.save(
            self.step,
            self.state,
            {
                "config": json.loads(config_lib.to_json(plan.config)),
                "tokens": plan.tokens_before(self.step),
                "sequences": plan.batches.before(self.step),
                "data": self.prepared.fingerprint,
            },
        )

    def _stop_here(self) -> None:
        self._save()
        self.saved.close()
        name = signal.Signals(self.stop.received).name
        raise Preempted(f"{name}: saved step {self.step} to {self.workdir}; the same command goes on from there")

    def close(self) -> None:
        self.saved.close()
        self.log.close()


def evaluate(
    trainer: Trainer,
    params: Any,
    prepared,
    plan: Plan,
    max_tokens: float | None = None,
    stop: StopSignal | None = None,
    split: str = "validation",
) -> dict[str, float] | None:
    """Loss in nats per token, perplexity and accuracy on a held-out split; None when asked to stop.

    Also bits per byte, where every token of the text is predicted once. `loss/NAME`, `accuracy/NAME`: of a part, see `Parts`. Each
    dataset of a mixture counts for its share of the whole, as in training, and has its share of `max_tokens`.
    """
    rows = sharding.batch_divisor(trainer.mesh)
    size = max(rows, plan.config.evaluation.batch_tokens // plan.context // rows * rows)
    sums, counted, text_bytes = [], 0, []
    for dataset, (part, portion) in enumerate(zip(prepared.parts, prepared.shares, strict=True)):
        total = None
        for batch in _evaluation_batches(plan, part, split, None if max_tokens is None else max_tokens * portion, size):
            if stop is not None and stop.asked():
                return None
            batch["part"] = batch.get("part", np.zeros(size, np.int32)) + np.int32(dataset * plan.parts.shape[1])
            found = jax.tree.map(np.float64, jax.device_get(trainer.evaluate(params, trainer.put(batch))))
            total = found if total is None else jax.tree.map(np.add, total, found)
        weight = total.weight.sum()
        counted += int(weight)
        sums.append(jax.tree.map(lambda leaf, factor=portion / weight: leaf * factor, total))
        # A part of the split stands for its share of the bytes.
        text_bytes.append(part.bytes(split) / max(1, len(part.tokens(split)) - 1) * portion)
    total = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *sums)
    loss = total.nll.sum()
    figures = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": total.correct.sum()}
    parts = plan.parts.figures(total.nll, total.correct, total.weight) | total.means_of_others()
    if isinstance(plan.objective, Causal):
        figures["bits_per_byte"] = loss / math.log(2) / sum(text_bytes)
        for name, one, of_text in zip(prepared.labels, sums, text_bytes, strict=False):
            parts[f"bits_per_byte/{name}"] = one.nll.sum() / math.log(2) / of_text
    return {name: float(value) for name, value in (figures | parts).items()} | {"tokens": counted}


def _evaluation_batches(plan: Plan, prepared, split: str, limit: float | None, size: int):
    from taxonomy.data import examples, pipeline

    tokens, start = prepared.tokens(split), prepared.tokenizer.document_start
    tokens = examples.beginning(tokens, None if limit is None else max(2, limit), plan.objective, start)
    if isinstance(plan.objective, Causal):
        return pipeline.evaluation_batches(tokens, plan.context, size, start)
    return examples.evaluation_examples(tokens, plan.objective, specials(plan, prepared), plan.lengths, size)
