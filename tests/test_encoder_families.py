"""What models with an encoder learn: their own objective on the embedded corpus, pairs by heart, and what a period hides."""

import json

import jax
import numpy as np
import pytest
from training.common import trainer_of

import taxonomy
from taxonomy import config as config_lib
from taxonomy import registry, sharding
from taxonomy.data.examples import Examples
from taxonomy.errors import UserError
from taxonomy.inference.decode import generate_tokens
from taxonomy.objectives.objective import Lengths, Specials
from taxonomy.training import checkpoints, loop, report
from taxonomy.training.parts import apart
from taxonomy.training.plan import make_plan

STEPS = 30
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
    "report.new_tokens": 8,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "corpus"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: make_mesh("", jax.devices()[:1]))


def test_a_tiny_model_lives(encoder_family, cache, tmp_path, monkeypatch):
    """It learns, stops, goes on, is restored, and shows what it makes of held-out examples."""
    monkeypatch.setenv("TAXONOMY_CACHE", str(cache))
    config = config_lib.load_config(f"{encoder_family}:tiny", OVERRIDES)
    workdir = tmp_path / "run"
    run = loop.train(config, workdir)
    summary = report.finish(run)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert len(losses) == STEPS and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5, losses
    assert "bits_per_byte" not in summary["validation"] and summary["validation"]["accuracy"] > 0
    assert bool(summary["samples"]) == ("decoder" in run.plan.model.stacks)
    again, params = taxonomy.restore(workdir)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(run.state.params))
    prompt = {"max_new_tokens": 4, "tokenizer": checkpoints.restore_tokenizer(workdir)}
    if "decoder" in run.plan.model.stacks:
        assert isinstance(taxonomy.generate(again, params, ["def "], **prompt)[0], str)
    else:
        with pytest.raises(UserError, match="the model is an encoder"):
            taxonomy.generate(again, params, ["def "], **prompt)


def learn(trainer, batches, steps: int, rate: float):
    state = trainer.init(0)
    for step in range(steps):
        factor = min(1.0, (step + 1) / 20, (steps - step) / (steps / 2))
        state, _ = trainer.step(state, trainer.put(batches(step)), rate * factor)
    return state


def test_pairs_are_learned_by_heart(tiny):
    """64 random pairs; greedy decoding, with a cache and ragged inputs, gives every target exactly."""
    one, generator = tiny("t5"), np.random.default_rng(0)
    start, end = 1, 2
    lengths = generator.integers(6, 13, 64)
    inputs, targets = generator.integers(3, 100, (64, 12), dtype=np.int32), generator.integers(3, 100, (64, 6), dtype=np.int32)
    place = np.tile(np.arange(12, dtype=np.int32), (64, 1))
    real = place < lengths[:, None]
    said = np.concatenate([targets, np.full((64, 1), end, np.int32)], 1)
    batch = {
        "inputs": np.where(real, inputs, 0),
        "input_positions": np.where(real, place, 0).astype(np.int32),
        "input_segments": real.astype(np.int32),
        "tokens": np.concatenate([np.full((64, 1), start, np.int32), targets], 1),
        "targets": said,
        "segments": np.ones_like(said),
    }
    trainer = trainer_of(one.spec, "adamw(b1=0.9, b2=0.98)", 1.0)
    state = learn(trainer, lambda step: batch, 400, 4e-3)
    rows = [row[:length].tolist() for row, length in zip(inputs, lengths, strict=True)]
    found = generate_tokens(one.spec, jax.device_get(state.params), [[start]] * 64, max_new_tokens=8, inputs=rows, stop_token=end)
    assert found == targets.tolist()


def masked_accuracy(family: str, tokens: np.ndarray, vocab_used: int, steps: int) -> float:
    config = config_lib.load_config(f"{family}:tiny")
    plan = make_plan(config, 1)
    objective = registry.create("objective", config.train.objective, "objective")
    specials = Specials(start=0, vocab=plan.model.vocab, used=vocab_used)
    examples = Examples(tokens, objective, specials, Lengths(32), seed=0)
    trainer = trainer_of(plan.model, "adamw(b1=0.9, b2=0.98)", 1.0)
    state = learn(trainer, lambda step: examples.batch(32 * step, 32), steps, 2e-3)
    sums = trainer.evaluate(state.params, trainer.put(examples.batch(10**6, 64)))
    return float(sums.correct.sum() / sums.weight.sum())


@pytest.mark.parametrize(("family", "steps"), [("bert", 400), ("xlnet", 120)])
def test_masked_tokens_of_a_period_are_guessed(family, steps):
    """Every token is as frequent as any other; more than 60% of the hidden ones are right in the end."""
    period = np.random.default_rng(0).permutation(np.arange(1, 10))
    assert masked_accuracy(family, np.tile(period, 1500).astype(np.int32), 10, steps) > 0.6


def test_every_denoiser_improves():
    """UL2: the loss of each of the seven falls."""
    config = config_lib.load_config("ul2:tiny")
    plan = make_plan(config, 1)
    tokens = np.tile(np.arange(1, 18, dtype=np.int32), 400)
    specials = Specials(start=0, vocab=plan.model.vocab, used=20)
    examples = Examples(tokens, plan.objective, specials, plan.lengths, seed=0)
    trainer = trainer_of(plan.model, "adamw(b1=0.9, b2=0.98)", 1.0, parts=plan.parts.shape)
    held_out = trainer.put(examples.batch(10**6, 128))

    def losses(params) -> dict[str, float]:
        sums = trainer.evaluate(params, held_out)
        return {name: one["loss"] for name, one in apart(plan.parts.figures(sums.nll, sums.correct, sums.weight)).items()}

    before = losses(trainer.init(0).params)
    after = losses(learn(trainer, lambda step: examples.batch(16 * step, 16), 120, 3e-3).params)
    assert tuple(before) == plan.objective.labels and len(before) == 7
    assert all(after[name] < before[name] - 1.0 for name in before), (before, after)


def test_an_objective_needs_a_model_that_can_carry_it():
    for name, objective, said in (
        ("llama", "masked_lm", "masked_lm cannot train a model whose structure is decoder (allowed: encoder)"),
        ("bert", "causal", "causal cannot train a model whose structure is encoder (allowed: decoder, prefix-decoder)"),
        ("t5", "causal", "causal cannot train a model whose structure is encoder-decoder"),
        ("bert", "permutation_lm", "permutation_lm gives an order, which no mask of this model reads (permutation does)"),
        ("llama", "permutation_lm", "permutation_lm cannot train a model whose structure is decoder (allowed: encoder)"),
    ):
        with pytest.raises(UserError) as e:
            make_plan(config_lib.load_config(f"{name}:tiny", {"train.objective": objective}), 1)
        assert said in str(e.value) and str(e.value).startswith("config.train.objective: ")
    # A model that reads an order does without one, too.
    for objective in ("masked_lm", "mixture(masked_lm, permutation_lm)"):
        make_plan(config_lib.load_config("xlnet:tiny", {"train.objective": objective}), 1)
