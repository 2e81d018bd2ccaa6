"""A run inside this process, on eight devices: what it writes, where it stops, what it evaluates."""

import functools
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy.errors import Diverged, Preempted, UserError
from taxonomy.training import checkpoints, loop
from taxonomy.training.plan import make_plan
from taxonomy.training.step import Trainer

from .commands import RUN, commands, reproducible

OVERRIDES = RUN | {"train.microbatch_tokens": None, "train.log_every": 3, "train.steps": 20}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return commands(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module", autouse=True)
def cache(command):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXONOMY_CACHE", str(command.cache))
        yield


@functools.cache
def config_over(folder, changes=()):
    source = {"data.source": f"text(glob='{folder}/*.txt')"}
    return config_lib.load_config("llama:tiny", {**OVERRIDES, **source, **dict(changes)})


@pytest.fixture(scope="module")
def config(command):
    return lambda **changes: config_over(command.corpus, tuple((k.replace("__", "."), v) for k, v in changes.items()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache, config):
    """A run to its end, with its workdir's log and files."""
    workdir = tmp_path_factory.mktemp("loop") / "run"
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = loop.train(config(), workdir)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    return run, workdir


def host(tree):
    return jax.tree.map(np.asarray, tree)


def assert_same_params(found, expected):
    jax.tree.map(np.testing.assert_array_equal, host(found), host(expected))


def test_lines_are_written_every_few_steps_at_evaluations_and_at_the_end(finished):
    run, workdir = finished
    lines = reproducible(workdir)
    assert [line["step"] for line in lines] == [3, 6, 8, 9, 12, 15, 16, 18, 20]
    assert [line["step"] for line in lines if "validation_loss" in line] == [8, 16, 20]
    assert run.step == 20 and int(run.state.step) == 20
    assert run.state.params["embedding"]["table"].sharding.mesh.shape["data"] == 8


def test_a_finished_run_is_not_run_again(finished, config):
    run, workdir = finished
    lines, kept = (workdir / "metrics.jsonl").read_text(), checkpoints.Checkpoints(workdir).steps()
    again = loop.train(config(), workdir)
    assert again.step == 20 and again.speeds == []
    assert_same_params(again.state.params, run.state.params)
    assert (workdir / "metrics.jsonl").read_text() == lines and checkpoints.Checkpoints(workdir).steps() == kept == [16, 20]


def test_the_parameters_of_a_workdir(finished):
    run, workdir = finished
    cfg, params = checkpoints.restore_params(workdir)
    assert_same_params(params, run.state.params)
    assert config_lib.to_json(cfg) == config_lib.to_json(run.plan.config)
    assert checkpoints.restore_tokenizer(workdir).fingerprint == run.prepared.tokenizer.fingerprint


@pytest.fixture
def interrupt(monkeypatch):
    """Sends this process a signal at a call of one of the trainer's functions."""

    def arrange(method, call, number=signal.SIGTERM):
        real, calls = getattr(Trainer, method), []

        def counted(self, *arguments):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return real(self, *arguments)

        monkeypatch.setattr(Trainer, method, counted)
        return calls

    return arrange


def test_a_stop_during_an_evaluation_is_heeded_and_costs_nothing(finished, config, tmp_path, monkeypatch, interrupt):
    """The evaluation is not finished, the step is saved (once: it was about to be), and the run ends as it would have."""
    calls = interrupt("evaluate", 1, signal.SIGINT)
    with pytest.raises(Preempted, match=r"^SIGINT: saved step 8 to .*; the same command goes on from there$") as e:
        loop.train(config(), tmp_path / "run")
    assert e.value.exit_code == 42 and len(calls) == 1
    assert checkpoints.Checkpoints(tmp_path / "run").steps()[-1] == 8
    monkeypatch.undo()
    run = loop.train(config(), tmp_path / "run")
    assert_same_params((run.state.params, run.state.opt_state), (finished[0].state.params, finished[0].state.opt_state))
    assert reproducible(tmp_path / "run") == reproducible(finished[1])


@pytest.mark.parametrize(("method", "call"), [("step", 20), ("evaluate", -1)])
def test_a_stop_at_the_end_leaves_the_evaluation_to_do(finished, config, tmp_path, monkeypatch, interrupt, method, call):
    """The last step is saved, and what goes on from there evaluates it."""
    if method == "evaluate":
        calls = interrupt(method, 0)
        loop.train(config(), tmp_path / "whole")
        monkeypatch.undo()
        call = len(calls) * 2 // 3 + 1  # the first of the third evaluation
    interrupt(method, call)
    with pytest.raises(Preempted, match="saved step 20 to"):
        loop.train(config(), tmp_path / "run")
    assert not any("validation_loss" in line for line in reproducible(tmp_path / "run") if line["step"] == 20)
    monkeypatch.undo()
    loop.train(config(), tmp_path / "run")
    assert reproducible(tmp_path / "run") == reproducible(finished[1])


def test_a_second_interrupt_does_not_wait():
    with loop.StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_workdir_is_for_one_run_at_a_time(tmp_path):
    with loop._alone_in(tmp_path), pytest.raises(UserError, match="--workdir: another run is using"), loop._alone_in(tmp_path):
        raise AssertionError("two at once")
    with loop._alone_in(tmp_path):
        pass


def poisoned(monkeypatch, steps):
    """Makes the loss of these steps infinite."""
    real = Trainer.step

    def step(self, state, batch, *rest):
        bad = int(state.step) + 1 in steps
        weights = np.full(batch["tokens"].shape, np.inf if bad else 1.0, np.float32)
        return real(self, state, {**batch, **self.put({"weights": weights})}, *rest)

    monkeypatch.setattr(Trainer, "step", step)


def test_two_bad_updates_are_survived_and_three_are_not(config, tmp_path, monkeypatch, capsys):
    changes = {"evaluation__every": "1000 steps", "checkpoint__every": "2 steps"}
    poisoned(monkeypatch, {5, 6, 10})
    run = loop.train(config(**changes, train__steps=12), tmp_path / "survived")
    said = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert [line.split(":")[0] for line in said] == ["step 5", "step 6", "step 10"]
    assert run.step == 12 and all(np.isfinite(a).all() for a in jax.tree.leaves(host(run.state.params)))

    monkeypatch.undo()
    poisoned(monkeypatch, {5, 6, 7})
    with pytest.raises(Diverged, match=r"^step 7: 3 updates in a row were not finite; the last good checkpoint is kept$") as e:
        loop.train(config(**changes, train__steps=12), tmp_path / "lost")
    assert e.value.exit_code == 3
    # Saved between bad steps, and finite all the same; resuming goes on counting.
    assert checkpoints.Checkpoints(tmp_path / "lost").steps() == [4, 6]
    _, params = checkpoints.restore_params(tmp_path / "lost")
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(params))
    with pytest.raises(Diverged, match="step 7: 3 updates in a row"):
        loop.train(config(**changes, train__steps=12), tmp_path / "lost")


def test_a_batch_that_grows(config, tmp_path):
    """Tokens are counted as they are seen, and resuming in the ramp takes up the data where it was."""
    changes = {"train__batch_ramp": "stages(first=8, later='16 from 6')", "train__batch_tokens": 1024, "train__log_every": 1}
    changes |= {"evaluation__every": "1000 steps", "checkpoint__every": "1000 steps", "train__steps": 10}
    loop.train(config(**changes), tmp_path / "run")
    seen = [line["tokens_seen"] for line in reproducible(tmp_path / "run")]
    assert seen == [64 * n for n in (8, 16, 24, 32, 40, 48, 64, 80, 96, 112)]


def test_the_figures_of_an_evaluation(finished):
    """By hand, from the probabilities of every token after the first, windows of the context one after another."""
    run, _ = finished
    tokens = np.asarray(run.prepared.tokens("validation"), np.int32)
    text = run.prepared.text_bytes("validation")
    context, targets = run.plan.context, len(tokens) - 1
    rows = -(-targets // context)
    padded = np.zeros(rows * context + 1, np.int32)
    padded[: len(tokens)] = tokens
    inputs, wanted = padded[:-1].reshape(rows, context), padded[1:].reshape(rows, context)
    starts = np.cumsum(inputs == run.prepared.tokenizer.document_start, axis=1)
    places = np.stack([np.arange(context)] * rows)
    first = np.maximum.accumulate(np.where((inputs == run.prepared.tokenizer.document_start) | (places == 0), places, 0), axis=1)
    apply = jax.jit(lambda params, *batch: run.trainer.model.apply({"params": params}, *batch))
    logits = np.asarray(apply(run.state.params, inputs, places - first, starts + 1), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, wanted[..., None], -1)[..., 0].ravel()[:targets]
    correct = (logits.argmax(-1) == wanted).ravel()[:targets]

    found = loop.evaluate(run.trainer, run.state.params, run.prepared, run.plan)
    assert found["tokens"] == targets and found["loss"] == pytest.approx(nll.mean(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nll.mean()), rel=1e-4)
    assert found["accuracy"] == pytest.approx(correct.mean(), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nll.sum() / math.log(2) / len(text), rel=1e-5)
    # A part of the split, in batches of another size: the first tokens of it, and their share of the bytes.
    part = loop.evaluate(run.trainer, run.state.params, run.prepared, run.plan, max_tokens=301)
    assert part["tokens"] == 300 and part["loss"] == pytest.approx(nll[:300].mean(), rel=1e-5)
    share = len(text) * 300 / targets
    assert part["bits_per_byte"] == pytest.approx(nll[:300].sum() / math.log(2) / share, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__vocab": 100}, "config.model.vocab: 100 is smaller than the tokenizer's vocabulary of 257"),
        ({"train__context": 65536, "train__batch_tokens": 8 * 65536}, "data: the train split has"),
        ({"data__source": "text(glob='CORPUS/*.txt', validation=0.0)"}, "holds no text out for validation"),
        ({"checkpoint__keep": 0}, "config.checkpoint.keep: at least 1 is needed, got 0"),
    ],
)
def test_a_mistake_in_the_data_leaves_nothing(config, command, tmp_path, changes, said):
    changes = {k: v.replace("CORPUS", str(command.corpus)) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError) as e:
        loop.train(config(**changes), tmp_path / "never")
    assert said in str(e.value) and "\n" not in str(e.value) and not (tmp_path / "never").exists()


def test_the_manifest_and_the_config_are_data(finished):
    _, workdir = finished
    assert json.loads((workdir / "manifest.json").read_text())["processes"] == 1
    assert make_plan(config_lib.from_json((workdir / "config.json").read_text()), 8).steps == 20
    assert jnp.asarray(1).dtype == jnp.int32  # nothing here switched to 64 bits


def test_the_datasets_of_a_mixture_are_reported_apart_and_together(config, tmp_path, capsys):
    """Each as it is alone, the whole by their weights; also while training and by the command's function."""
    for name, letters in (("easy", "ab"), ("hard", "abcdefghijklmnop")):
        text = np.random.default_rng(0).choice(list(letters), 6000)
        (tmp_path / f"{name}.txt").write_text("".join(text))
    one = "text(glob='{}/{}.txt', validation=0.3)"
    texts = [one.format(tmp_path, name) for name in ("easy", "hard")]
    source = f"mixture({', '.join(texts)}, weights=(3, 1))"
    changes = {"train__steps": 4, "evaluation__every": "4 steps", "evaluation__max_tokens": 1e6}
    changes["model__mlp"] = "moe(experts=3, top_k=1, router=domain, expert=swiglu(d_ff=32), capacity=2.5)"
    run = loop.train(config(data__source=source, **changes), tmp_path / "run")
    names = run.plan.parts.datasets
    assert names == tuple(f"text(glob={f'{tmp_path}/{name}.txt'!r})" for name in ("easy", "hard"))
    assert f"75.0% {names[0]}, gone through" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(f"loss/{name}" in lines[0] for name in names)
    # Every dataset has an expert, the first one three times as many rows as the second: what is watched is in the log.
    easy, hard, nobody = lines[0]["expert_load"]
    assert nobody == 0 and easy > hard > 0 and easy + hard == pytest.approx(3)
    assert lines[0]["expert_load_max"] == pytest.approx(easy)
    # A row has room for 2.5 thirds of its tokens, rounded up.
    assert lines[0]["dropped_fraction"] == pytest.approx(1 - 54 / 64) and lines[0]["router_entropy"] == 0

    together = loop.evaluate(run.trainer, run.state.params, run.prepared, run.plan)
    for index, name in enumerate(names):
        plan = make_plan(config(data__source=texts[index], **changes), 8)
        # Alone, a dataset's expert is the first one.
        moved = lambda path, a, index=index: jnp.roll(a, -index, 1) if "'experts'" in jax.tree_util.keystr(path) else a  # noqa: E731
        params = jax.tree_util.tree_map_with_path(moved, run.state.params)
        alone = loop.evaluate(loop.make_trainer(plan), params, run.prepared.parts[index], plan)
        for figure in ("loss", "accuracy", "bits_per_byte"):
            assert together[f"{figure}/{name}"] == pytest.approx(alone[figure], rel=1e-5)
        assert lines[-1][f"validation_loss/{name}"] == pytest.approx(alone["loss"], rel=1e-5)
    for figure in ("loss", "accuracy", "bits_per_byte"):
        parts = [together[f"{figure}/{name}"] for name in names]
        assert together[figure] == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], rel=5e-3)
