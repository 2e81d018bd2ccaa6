"""What a run shows at its end, and what a dry run shows instead of one."""

import gzip
import json
import lzma
import math
import pathlib
import statistics
import time

import jax
import ml_collections

from taxonomy import distributed
from taxonomy.inference.answers import Answer, answer, scores
from taxonomy.objectives.causal import Causal
from taxonomy.training import metrics
from taxonomy.training.loop import Run, evaluate, make_trainer, specials
from taxonomy.training.parts import apart
from taxonomy.training.plan import abstract_batch, make_plan


def finish(run: Run) -> dict:
    """Prints and saves the report of a finished run: `report.json`, `loss.png`, `samples/`. Returns what it printed.

    Of several processes the first makes it, without texts: parameters that lie on all hosts are not read by one.
    """
    say, config = run.progress.say, run.plan.config
    # Compressors see the whole held-out text, so there the model does too.
    limit = None if config.report.compressors else run.evaluation_tokens
    result = evaluate(run.trainer, run.state.params, run.prepared, run.plan, limit)
    summary = {"validation": result, "minutes": (time.perf_counter() - run.started) / 60}
    if not distributed.first():
        return summary
    say("")
    say(f"{config.name}: finished step {run.step} in {metrics.clock(time.perf_counter() - run.started)}")
    say(f"  held-out text      loss {result['loss']:.3f}  perplexity {result['perplexity']:.1f}  accuracy {result['accuracy']:.1%}")
    if "bits_per_byte" in result:
        say(f"  bits per byte      {result['bits_per_byte']:.3f}")
    for part, figures in apart(result).items():
        say(f"    {part:16} " + "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items()))
    if config.report.compressors:
        summary["compressors"] = compressors(run.prepared.text_bytes("validation"))
        for name, bits in summary["compressors"].items():
            verdict = "the model is smaller" if result["bits_per_byte"] < bits else "the model is not smaller"
            say(f"    {name:16} {bits:.3f}  ({verdict})")
    if run.speeds:
        speed = statistics.median(run.speeds)
        share = speed * run.flops_per_token / run.peak
        summary |= {"tokens_per_second": speed, "mfu": share}
        peak = "measured matmul peak" if jax.devices()[0].platform == "cpu" else "peak"
        flops = metrics.short(run.peak).replace("B", "G")
        say(f"  speed              {metrics.short(speed)} tokens/s, {share:.0%} of the {peak} of {flops}FLOP/s")
    # Pairs are shown as what was given, what the model wrote and what was wanted.
    paired = run.prepared.separator is not None and "decoder" in run.plan.model.stacks
    if distributed.several():
        summary["samples"] = []
    elif paired:
        answered = answers(run)
        summary |= {"scores": scores(config.evaluation.metrics, answered), "samples": answered[:: -(-len(answered) // 4) or 1]}
        for name, value in summary["scores"].items():
            say(f"  {name:18} {value:.4f}  (greedy answers to {len(answered)} held-out pairs)")
    else:
        summary["samples"] = samples(run) if isinstance(run.plan.objective, Causal) else restored(run)
    for prompt, text, *wanted in summary["samples"]:
        if not wanted and run.plan.model.structure != "encoder-decoder":
            say(f"\n  --- {prompt[:40]!r}\n{_framed(prompt + text)}")
            continue
        for title, part in zip(("given", "written", "wanted"), (prompt, text, *wanted), strict=False):
            say(("\n" if title == "given" else "") + f"  --- {title}\n{_framed(part)}")
    plot = loss_curve(run.workdir)
    (run.workdir / "report.json").write_text(json.dumps(summary, indent=2))
    say(f"\n  curves             {plot}")
    say("  next               " + "\n                     ".join(next_steps(run)))
    return summary


def _framed(text: str, most: int = 14) -> str:
    lines = text.strip("\n").splitlines()
    return "\n".join(f"  | {line}" for line in lines[:most] + ["..."] * (len(lines) > most))


def compressors(text: bytes) -> dict[str, float]:
    """Bits per byte of general-purpose compressors on the same held-out bytes."""
    sizes = {"gzip -9": len(gzip.compress(text, 9)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def answers(run: Run, least: int = 4) -> list[Answer]:
    """Answers of a run to held-out pairs: as many as its metrics want, or a few to look at; none without new tokens."""
    config = run.plan.config
    if not config.report.new_tokens:
        return []
    count = config.evaluation.pairs if config.evaluation.metrics else least
    return answer(run.plan, run.state.params, run.prepared, count)


def restored(run: Run, count: int = 3) -> list[tuple[str, str]]:
    """What the encoder of a run reads in a few held-out examples, and what the decoder says to it; empty without one of them."""
    from taxonomy.data.examples import evaluation_examples
    from taxonomy.inference.decode import generate_tokens

    plan, tokenizer = run.plan, run.prepared.tokenizer
    if list(plan.model.stacks) != ["encoder", "decoder"] or not plan.config.report.new_tokens:
        return []
    own = specials(plan, run.prepared)
    batch = next(evaluation_examples(run.prepared.tokens("validation"), plan.objective, own, plan.lengths, count))
    inputs = [row[segment > 0].tolist() for row, segment in zip(batch["inputs"], batch["input_segments"], strict=True)]
    inputs = [row for row in inputs if row]
    starts, most = [[own.beginning]] * len(inputs), min(plan.config.report.new_tokens, plan.context)
    options = {"max_new_tokens": most, "stop_token": own.ending, "inputs": inputs}
    said = generate_tokens(plan.model, run.state.params, starts, **options)
    return [
        (shown(one, tokenizer, plan.model.vocab), shown(other, tokenizer, plan.model.vocab))
        for one, other in zip(inputs, said, strict=True)
    ]


def shown(tokens: list[int], tokenizer, vocab: int) -> str:
    """Text with <k> for the k-th id from the top of the vocabulary, which stands for no text."""
    pieces, text = [], []
    for token in tokens:
        if token < tokenizer.vocab_size:
            text.append(token)
            continue
        pieces += [tokenizer.decode(text), f"<{vocab - 1 - token}>"]
        text = []
    return "".join([*pieces, tokenizer.decode(text)])


def samples(run: Run) -> list[tuple[str, str]]:
    """One completion for each prompt of the config, saved under `samples/`."""
    from taxonomy.inference.decode import generate
    from taxonomy.model import position_limit

    report, tokenizer = run.plan.config.report, run.prepared.tokenizer
    prompts = list(report.prompts)
    longest = max((len(tokenizer.encode(prompt)) + 1 for prompt in prompts), default=0)
    limit = position_limit(run.plan.model)
    length = report.new_tokens if limit is None else min(report.new_tokens, limit - longest)
    if length < 1:
        return []
    texts = generate(
        run.plan.config,
        run.state.params,
        prompts,
        tokenizer=tokenizer,
        max_new_tokens=length,
        sampler=report.sampler,
        seed=run.plan.config.seed,
    )
    folder = run.workdir / "samples"
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"prompt": p, "text": t}) for p, t in zip(prompts, texts, strict=True)]
    (folder / f"step_{run.step}.jsonl").write_text("\n".join(lines) + "\n")
    return list(zip(prompts, texts, strict=True))


def loss_curve(workdir: pathlib.Path) -> pathlib.Path:
    """Draws training and validation loss over tokens as `loss.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = metrics.read(workdir)
    train = [(line["tokens_seen"], line["loss"]) for line in lines]
    held_out = [(line["tokens_seen"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=150, layout="constrained")
    axes.plot(*zip(*train, strict=True), color="#9db4c8", linewidth=1, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#1b4f72", marker="o", markersize=4, label="validation")
        last = held_out[-1]
        axes.annotate(f"{last[1]:.3f}", last, textcoords="offset points", xytext=(0, 8), ha="right")
    axes.set(xlabel="tokens", ylabel="loss (nats per token)", title=workdir.name)
    axes.xaxis.set_major_formatter(lambda value, _: metrics.short(value) if value else "0")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = workdir / "loss.png"
    figure.savefig(path)
    plt.close(figure)
    return path


def next_steps(run: Run) -> list[str]:
    """Commands worth trying after this run."""
    generate = f'python -m taxonomy.generate --workdir={run.workdir} --prompt="import " --sampler="top_p(0.9, temperature=0.8)"'
    return [
        *([generate] if run.plan.model.decoder else []),
        f"python -m taxonomy.train --config=... --workdir={run.workdir}-alibi --config.model.position=alibi",
        f"tensorboard --logdir {run.workdir}",
    ]


def dry_run(config: ml_collections.ConfigDict) -> None:
    """Says what a run would do and compiles its step, without data and without arrays."""
    plan = make_plan(config, jax.device_count())
    trainer = make_trainer(plan)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trainer.abstract.params))
    state = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trainer.abstract) if hasattr(leaf.dtype, "itemsize")
    )
    rows = plan.batches.sequences(0)
    print(f"{config.name}: {count:,} parameters, {state / 2**30:.2f} GiB of state")
    for name, layers in plan.model.stacks.items():
        print(f"  {name:<18} {layers}")
    for name, _ in plan.model.blocks:
        print(f"  block {name:12} {config.model.blocks[name]}")
    tokens = plan.tokens_before(plan.steps)
    print(
        f"  training           {plan.steps:,} steps, {metrics.short(tokens)} tokens, "
        f"batches of {rows:,} to {plan.batches.full:,} x {plan.context}"
    )
    print(f"  learning rate      {plan.learning_rate(0):.2e} at first, {plan.learning_rate(plan.steps - 1):.2e} at last")
    print(f"  mesh               {config.mesh} over {jax.device_count()} device(s)")
    started = time.perf_counter()
    compiled = trainer.lower(abstract_batch(plan, rows), plan.microbatches(0)).compile()
    memory = compiled.memory_analysis()
    peak = f", {memory.temp_size_in_bytes / 2**30:.2f} GiB of temporaries" if memory else ""
    print(f"  compiled           in {time.perf_counter() - started:.1f} s{peak}")
