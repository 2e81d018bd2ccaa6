"""One run: data, steps, evaluations, checkpoints, and a way to stop and go on."""

import contextlib
import dataclasses
import fcntl
import json
import math
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, sharding
from taxonomy.errors import Diverged, Preempted, UserError
from taxonomy.objectives.causal import Causal
from taxonomy.objectives.objective import Specials
from taxonomy.objectives.pairs import Pairs
from taxonomy.scaling.accounting import train_flops_per_token
from taxonomy.training import checkpoints, metrics
from taxonomy.training.plan import Plan, make_plan
from taxonomy.training.step import Trainer


class StopSignal:
    """Remembers SIGTERM and SIGINT so that a run can end between two steps."""

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread, as in some notebooks
                self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _alone_in(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the workdir's lock; the system releases it when the process ends, however it ends."""
    with (workdir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--workdir: another run is using {workdir}") from None
        yield


@dataclasses.dataclass(frozen=True)
class _Existing:
    """A tokenizer that is already there, where `prepare` expects one to be learned."""

    tokenizer: Any

    def train(self, documents: Any) -> Any:
        return self.tokenizer

    def fingerprint(self) -> str:
        return self.tokenizer.fingerprint


def prepare_data(config: ml_collections.ConfigDict, say=print, tokenizer=None, splits=("train", "validation")):
    """The tokenised corpus of a config, from the cache when it was prepared before; with its own tokenizer or the one given."""
    from taxonomy.data.prepare import prepare
    from taxonomy.data.storage import cache_directory

    source = registry.create("source", config.data.source, "config.data.source")
    if tokenizer is None:
        scalars = {k: v for k, v in config.model.items() if type(v) is int}
        recipe = registry.create("tokenizer", config.data.tokenizer, "config.data.tokenizer", **scalars)
    else:
        recipe = _Existing(tokenizer)
    prepared = prepare(source, recipe, cache_directory() / "prepared", splits=splits, report=say)
    size = prepared.tokenizer.vocab_size
    if size > config.model.vocab:
        raise UserError(f"config.model.vocab: {config.model.vocab} is smaller than the tokenizer's vocabulary of {size}")
    return prepared


def make_trainer(plan: Plan) -> Trainer:
    """The compiled functions of a plan on the mesh of its config."""
    train = plan.config.train
    module = model_lib.Transformer(plan.model, plan.execution)
    return Trainer(module, plan.optimizer, sharding.make_mesh(plan.config.mesh), train.clip, train.z_loss)


def make_examples(plan: Plan, prepared):
    """The endless stream of training examples: windows of text, or what the objective makes of them."""
    from taxonomy.data import examples, pipeline

    tokens, seed = prepared.tokens("train"), plan.config.seed
    # An encoder and a decoder read the halves of a pair without what stands between them.
    apart = isinstance(plan.objective, Pairs) and plan.lengths.inputs is not None
    if prepared.separator is not None and prepared.separator >= plan.model.vocab and not apart:
        least = prepared.separator + 1
        raise UserError(f"config.model.vocab: {plan.model.vocab} has no id for the separator of pairs; at least {least} is needed")
    if isinstance(plan.objective, Causal):
        return pipeline.Windows(tokens, plan.context, seed, prepared.tokenizer.document_start)
    return examples.Examples(tokens, plan.objective, specials(plan, prepared), plan.lengths, seed)


def specials(plan: Plan, prepared) -> Specials:
    """What the plan's objective must know of the tokenizer."""
    from taxonomy.data import examples

    tokenizer = prepared.tokenizer
    return examples.specials(tokenizer, plan.model.vocab, end=tokenizer.document_end, separator=prepared.separator)


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> "Run":
    """Trains from the newest good checkpoint of the workdir, or from the start. Returns the finished run."""
    plan = make_plan(config, jax.device_count())
    started = time.perf_counter()
    progress = metrics.Progress()
    prepared = prepare_data(config, progress.say)
    windows = make_examples(plan, prepared)
    if len(prepared.tokens("validation")) < 2:
        raise UserError(f"config.data.source: {config.data.source} holds no text out for validation")
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone_in(workdir), StopSignal() as stop:
        run = Run(plan, prepared, windows, workdir, progress, stop, started)
        try:
            run.go()
        finally:
            run.close()
    return run


class Run:
    """The moving parts of a run."""

    def __init__(
        self, plan: Plan, prepared, windows, workdir: pathlib.Path, progress: metrics.Progress, stop: StopSignal, started: float
    ):
        config = plan.config
        self.plan, self.prepared, self.windows, self.workdir = plan, prepared, windows, workdir
        self.progress, self.stop, self.started = progress, stop, started
        self.trainer = make_trainer(plan)
        self.saved = checkpoints.Checkpoints(workdir, config.checkpoint.keep, config.checkpoint.asynchronous)
        self.step = 0
        self.last_saved: int | None = None
        self.speeds: list[float] = []
        self._restore_or_start()
        self.log = metrics.Log(workdir, self.step)
        self.flops_per_token = train_flops_per_token(plan.model, plan.context)
        self.peak = metrics.peak_flops()

    def _restore_or_start(self) -> None:
        config, check = self.plan.config, lambda meta: checkpoints.refuse_changed(meta["config"], self.plan.config)
        restored = self.saved.restore(self.trainer.abstract, self.trainer.shardings, check, self.progress.say)
        if restored:
            self.state, meta = restored
            self.step = self.last_saved = meta["step"]
            self.progress.say(f"resumed from step {self.step} of {self.workdir}")
        else:
            self.state = self.trainer.init(config.seed)
        (self.workdir / "config.json").write_text(config_lib.to_json(config))
        (self.workdir / "manifest.json").write_text(json.dumps(checkpoints.manifest(sys.argv), indent=2))
        self.prepared.tokenizer.save(self.workdir / "tokenizer")

    def go(self) -> None:
        """Trains to the end. Raises Preempted when stopped by a signal, Diverged when updates stay non-finite."""
        plan, pending = self.plan, None
        self._introduce()
        hosts, host = jax.process_count(), jax.process_index()
        order = ((plan.batches.before(s), plan.batches.sequences(s)) for s in range(self.step, plan.steps))
        self.window_start, self.window_tokens = None, 0
        with contextlib.closing(self.windows.stream(order, host=host, hosts=hosts)) as stream:
            for batch in stream:
                rate = plan.learning_rate(self.step)
                self.state, values = self.trainer.step(
                    self.state, self.trainer.put(read(batch)), rate, plan.microbatches(self.step)
                )
                self.step += 1
                if pending:
                    self._note(*pending)
                pending = (self.step, rate, values)
                if self.stop.received is not None:
                    self._note(*pending)
                    self._stop_here()
                finished = self.step == plan.steps
                evaluating = finished or self.step % plan.evaluate_every == 0
                saving = finished or self.step % plan.checkpoint_every == 0
                if evaluating or saving:
                    self._note(*pending, evaluate=evaluating)
                    pending = None
                    if saving:
                        self._save()
                    if self.stop.received is not None and not finished:
                        self._stop_here()
                    self.window_start = None
        self.saved.close()

    def _introduce(self) -> None:
        plan, sizes = self.plan, self.trainer.abstract.params
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(sizes))
        left = plan.steps - self.step
        self.progress.say(
            f"{plan.config.name}: {metrics.short(count)} parameters, {left} steps of {plan.batches.full} x {plan.context} tokens "
            f"on {jax.device_count()} {jax.devices()[0].device_kind} device(s); compiling the step"
        )

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
            **{k: float(v) for k, v in values.items() if k != "skipped"},
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


def read(batch: dict[str, Any]) -> dict[str, Any]:
    """What of a batch the model reads; which objective made a row is for those who look at the data."""
    return {name: array for name, array in batch.items() if name != "part"}


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

    Also bits per byte, where every token of the text is predicted once.
    """
    from taxonomy.data import examples, pipeline

    tokens = prepared.tokens(split)
    limit = len(tokens) if max_tokens is None else min(len(tokens), int(max_tokens))
    rows = sharding.batch_divisor(trainer.mesh)
    size = max(rows, plan.config.evaluation.batch_tokens // plan.context // rows * rows)
    nll = correct = weight = 0.0
    causal = isinstance(plan.objective, Causal)
    if causal:
        batches = pipeline.evaluation_batches(tokens[:limit], plan.context, size, prepared.tokenizer.document_start)
    else:
        part = examples.beginning(tokens, limit, plan.objective, prepared.tokenizer.document_start)
        batches = examples.evaluation_examples(part, plan.objective, specials(plan, prepared), plan.lengths, size)
    for batch in batches:
        if stop is not None and stop.received is not None:
            return None
        sums = trainer.evaluate(params, trainer.put(read(batch)))
        nll, correct, weight = nll + float(sums.nll), correct + float(sums.correct), weight + float(sums.weight)
    # A part of the split stands for its share of the bytes.
    total_bytes = prepared.bytes(split) * weight / max(1, len(tokens) - 1)
    loss = nll / weight
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": correct / weight,
        **({"bits_per_byte": nll / math.log(2) / total_bytes} if causal else {}),
        "tokens": int(weight),
    }
