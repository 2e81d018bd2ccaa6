"""The life of every family's tiny model: it learns from the embedded corpus, is restored, and is converted."""

import json
import os
import signal

import jax
import numpy as np
import pytest

import taxonomy
from taxonomy import config as config_lib
from taxonomy import sharding, spec
from taxonomy.errors import Preempted
from taxonomy.interop import engine
from taxonomy.model import nets
from taxonomy.training import checkpoints, loop
from taxonomy.training.step import Trainer

STEPS, STOP = 24, 20
OVERRIDES = {
    "data.tokenizer": "bytes()",
    "train.steps": STEPS,
    "train.batch_tokens": 512,
    "train.optimizer": "adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
    "train.schedule": "constant(peak=3e-3, warmup='5 steps')",
    "train.log_every": 1,
    "evaluation.every": f"{STEPS} steps",
    "evaluation.batch_tokens": 512,
    "evaluation.max_tokens": 512,
    "checkpoint.every": f"{STEPS} steps",
    "checkpoint.asynchronous": False,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "corpus"


@pytest.fixture(autouse=True)
def alone(cache, monkeypatch):
    """One device: eight take several times as long."""
    make_mesh = sharding.make_mesh
    monkeypatch.setenv("TAXONOMY_CACHE", str(cache))
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: make_mesh("", jax.devices()[:1]))


@pytest.mark.parametrize("family", ["deepseek_r1"])  # routers have a state of their own
def test_a_stopped_run_goes_on(family, tmp_path, monkeypatch):
    config = config_lib.load_config(f"{family}:tiny", OVERRIDES)
    workdir, update, calls = tmp_path / "run", Trainer.step, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(Preempted, match=f"saved step {STOP} to"):
        loop.train(config, workdir)
    assert loop.train(config, workdir).step == len(calls) == STEPS


@pytest.mark.slow_by_family
def test_a_tiny_model_lives(family, tmp_path):
    config, workdir = config_lib.load_config(f"{family}:tiny", OVERRIDES), tmp_path / "run"
    run = loop.train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines}
    assert sorted(losses) == list(range(1, STEPS + 1))
    first, last = (np.mean([losses[step] for step in steps]) for steps in (range(1, 6), range(STEPS - 4, STEPS + 1)))
    assert last < first - 0.5, losses

    config, params = taxonomy.restore(workdir)
    checkpoints.restore_tokenizer(workdir)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(run.state.params))
    architecture = config.about.verified_against.removeprefix("transformers.")
    if architecture != config.about.verified_against:
        model, kept = nets(spec.model(config.model.to_dict()), params)["model"]
        assert engine.write_config(model)[0].architecture == architecture
        engine.to_hf(config, params, tmp_path / "theirs")
        _, again = engine.from_hf(tmp_path / "theirs")
        jax.tree.map(np.testing.assert_array_equal, again, kept)
