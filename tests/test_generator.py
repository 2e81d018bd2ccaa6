"""A generator beside a model: what the loss is, what reaches what, and that both learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from test_encoder_families import learn
from training.common import trainer_of

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.data.examples import Examples
from taxonomy.errors import UserError
from taxonomy.objectives.objective import Lengths, Specials
from taxonomy.ops import cross_entropy
from taxonomy.training.plan import make_plan

PAGE, MASK = "electra", 511
ROWS, TIME = 6, 24


@functools.cache
def batch() -> dict[str, np.ndarray]:
    """Masked texts with two tokens of padding in the second row."""
    generator = np.random.default_rng(0)
    text, masked = generator.integers(0, 500, (ROWS, TIME), dtype=np.int32), generator.random((ROWS, TIME)) < 0.3
    segments = np.ones_like(text)
    segments[1, -2:] = text[1, -2:] = masked[1, -2:] = 0
    return {
        "tokens": np.where(masked, MASK, text),
        "targets": text,
        "segments": segments,
        "weights": masked.astype(np.float32),
        "detection": (generator.random((ROWS, TIME)) * segments).astype(np.float32),
    }


@functools.partial(jax.jit, static_argnums=0)
def sums(model, params, batch, key=None):
    rngs = None if key is None else {"sample": key}
    return model.apply({"params": params}, **batch, rngs=rngs, method="loss").collected(jnp.sum)


@functools.partial(jax.jit, static_argnums=0)
def read_by_both(model, params, batch):
    """The tokens that each net reads while the loss is computed: of the generator, then of the model."""
    import flax.linen as nn

    seen = []

    def note(next_call, args, kwargs, call):
        if call.module.name == "vectors" and call.method_name == "__call__":
            seen.append(args[0])
        return next_call(*args, **kwargs)

    with nn.intercept_methods(note):
        model.apply({"params": params}, **batch, method="loss")
    return seen


def test_the_loss_is_that_of_both_nets(tiny):
    """Computed from each net as a model of its own, with plain formulas."""
    one = tiny(PAGE)
    given, nets = batch(), model_lib.nets(one.spec, one.params)
    place = {"segments": given["segments"]}
    model, params = nets["generator"]
    log_p = jax.nn.log_softmax(model_lib.build(model).apply({"params": params}, given["tokens"], **place))
    nll = -np.take_along_axis(np.asarray(log_p), given["targets"][..., None], 2)[..., 0]

    masked, read = read_by_both(one.model(), one.params, given)
    np.testing.assert_array_equal(masked, given["tokens"])
    chosen = given["weights"] > 0
    np.testing.assert_array_equal(np.asarray(read)[~chosen], given["targets"][~chosen])
    model, params = nets["model"]
    assert model.generator is None and "generator" not in params
    p = jax.nn.sigmoid(model_lib.build(model).apply({"params": params}, read, **place)[..., 0])
    replaced = np.asarray(read) != given["targets"]
    assert 0 < replaced.sum() <= chosen.sum()
    surprise = -np.log(np.where(replaced, p, 1 - p))

    found = sums(one.model(), one.params, given)
    np.testing.assert_allclose(found.nll, (nll * given["weights"]).sum(), rtol=1e-5)
    np.testing.assert_allclose(found.weight, given["weights"].sum())
    told = found.others["detection"]
    np.testing.assert_allclose(told.nll, (surprise * given["detection"]).sum(), rtol=1e-4)
    np.testing.assert_allclose(told.weight, given["detection"].sum(), rtol=1e-6)
    np.testing.assert_allclose(told.correct, (((p > 0.5) == replaced) * given["detection"]).sum(), rtol=1e-5)
    np.testing.assert_allclose(found.loss, found.nll + told.nll, rtol=1e-6)
    np.testing.assert_allclose(
        one.logits(one.params, read, None, given["segments"]),
        model_lib.build(model).apply({"params": params}, read, **place),
        rtol=1e-5,
        atol=1e-6,
    )


def test_every_token_but_padding_is_told_by_default(tiny):
    one, given = tiny(PAGE), {name: array for name, array in batch().items() if name != "detection"}
    assert sums(one.model(), one.params, given).others["detection"].weight == ROWS * TIME - 2


def test_what_learns_from_which_loss(tiny):
    """Telling tokens teaches the model and the shared vectors; saying them, the generator and the shared vectors."""
    one = tiny(PAGE)

    @jax.jit
    def gradients(params):
        def losses(params):
            found = one.model().apply({"params": params}, **batch(), method="loss")
            return found.loss - found.others["detection"].loss, found.others["detection"].loss

        return jax.jacrev(losses)(params)

    def learned(tree) -> set[str]:
        leaves = traverse_util.flatten_dict(tree, sep="/")
        # A shift of all scores before a softmax changes nothing, so the biases of keys have no gradient but rounding.
        return {path for path, leaf in leaves.items() if np.any(leaf != 0) and not path.endswith("key_bias")}

    every = {path for path in traverse_util.flatten_dict(one.params, sep="/") if not path.endswith("key_bias")}
    of_generator = {path for path in every if path.startswith("generator/")}
    said, told = gradients(one.params)
    assert learned(told) == every - of_generator
    assert learned(said) == of_generator | {path for path in every if path.startswith("embedding/vectors/")}


def test_a_masked_token_reaches_neither_net(tiny):
    one, given = tiny(PAGE), batch()
    chosen = given["weights"] > 0
    other = {**given, "targets": np.where(chosen, (given["targets"] + 7) % 500, given["targets"])}
    for mine, theirs in zip(*(read_by_both(one.model(), one.params, b) for b in (given, other)), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert sums(one.model(), one.params, given).nll != sums(one.model(), one.params, other).nll


def test_samples_depend_on_the_key_and_the_row(tiny):
    """Not on what else is in the batch, nor on the row's place; in evaluation they are always the same."""
    one, given = tiny(PAGE), batch()
    order = np.array([4, 1, 3])
    part = {name: array[order] for name, array in given.items()}
    _, whole = read_by_both(one.model(), one.params, given)
    _, rows = read_by_both(one.model(), one.params, part)
    np.testing.assert_array_equal(np.asarray(whole)[order], rows)
    found = [float(sums(one.model(), one.params, given, key).loss) for key in (*jax.random.split(jax.random.key(1)), None, None)]
    assert len({*found}) == 3 and found[2] == found[3]
    # Rows that are alike at every place but one are given other numbers.
    tokens = np.tile(given["tokens"][:1], (2, 1))
    tokens[1, 5] += 1
    uniform = one.model().apply({"params": one.params}, tokens, method="_uniform")
    assert np.all(uniform[0] != uniform[1]) and uniform.min() >= 0 and uniform.max() < 1


def test_both_nets_learn():
    """Two tokens in turn: soon the generator says them and no others, and the model tells what it samples before."""
    plan = make_plan(config_lib.load_config(f"{PAGE}:tiny"), 1)
    specials = Specials(start=0, vocab=plan.model.vocab, used=10)
    examples = Examples(np.tile(np.int32([1, 2]), 9999), plan.objective, specials, Lengths(16), seed=0)
    trainer = trainer_of(plan.model, "adamw(b1=0.9, b2=0.98)", 1.0)
    held_out = examples.batch(10**6, 64)

    def figures(params):
        found = trainer.evaluate(params, trainer.put(held_out)).collected(jnp.sum)
        return float(found.nll / found.weight), {name: float(value) for name, value in found.means_of_others().items()}

    before, told_before = figures(trainer.init(0).params)
    params = learn(trainer, lambda step: examples.batch(16 * step, 16), 40, 3e-3).params
    after, told = figures(params)
    assert after < before - 2.0 and told["detection_loss"] < told_before["detection_loss"] - 0.5
    _, read = read_by_both(model_lib.build(plan.model), params, held_out)
    wrong = (np.asarray(read) != held_out["targets"]).mean()
    # Not by always saying no, the best there is without looking.
    assert wrong > 0.05 and told["detection_accuracy"] > 1 - wrong / 2
    assert told["detection_loss"] < -0.5 * (wrong * np.log(wrong) + (1 - wrong) * np.log(1 - wrong))


ERRORS = [
    ({"model.generator.vocab": 400}, "model.generator: vocab must be 512 in both nets, got 400"),
    ({"model.generator.head": "untide"}, "model.generator.head: unknown head 'untide'; did you mean 'untied'?"),
    ({"model.generator.head": "detector"}, "model.generator: its head must say tokens"),
    ({"model.head": "mlm"}, "model.generator: its head must say tokens"),
    ({"model.embedding": "table"}, "model.generator: both nets must have the same vectors, but with d_model=32"),
    ({"train.objective": "masked_lm"}, "config.train.objective: masked_lm cannot train a model with a generator"),
]


@pytest.mark.parametrize(("overrides", "said"), ERRORS, ids=[said[:50] for _, said in ERRORS])
def test_what_does_not_fit_is_said(overrides, said):
    with pytest.raises(UserError) as caught:
        make_plan(config_lib.load_config(f"{PAGE}:tiny", overrides), 1)
    assert str(caught.value).startswith(said) and len(str(caught.value).splitlines()) == 1


def test_a_detector_needs_a_generator():
    config = config_lib.load_config(f"{PAGE}:tiny").copy_and_resolve_references().unlock()
    del config.model["generator"]
    with pytest.raises(UserError, match=r"config\.train\.objective: replaced_tokens cannot train a model without a generator"):
        make_plan(config, 1)
    config.train.objective = "masked_lm"
    with pytest.raises(UserError, match=r"model\.generator: required by the head detector"):
        make_plan(config, 1)
    with pytest.raises(UserError, match=r"model\.generator: expected the keys in which it differs"):
        spec.model({**config.model.to_dict(), "generator": "mlm"})


def test_a_generator_of_the_same_width_shares_the_whole_embedding(random_params):
    """As the released small model has it; without a projection the embedding may be a plain table."""
    section = config_lib.load_config(f"{PAGE}:tiny").model.to_dict()
    section |= {"embedding": "table(types=2, norm=norm)", "generator": {"head": "mlm"}}
    model = model_lib.build(section)
    params = random_params(model, np.zeros((1, 8), np.int32))
    assert "embedding" not in params["generator"] and model_lib.nets(model.spec, params)["generator"][1]["embedding"]
    found = sums(model, params, batch())
    generator, own = model_lib.nets(model.spec, params)["generator"]
    features = model_lib.build(generator).apply({"params": own}, batch()["tokens"], None, batch()["segments"], method="features")
    said = model_lib.build(generator).apply({"params": own}, features, method="_projected")
    alone = cross_entropy.reference(*said, batch()["targets"], jnp.asarray(batch()["weights"]))
    np.testing.assert_allclose(found.nll, alone.nll.sum(), rtol=1e-5)
    assert registry.find(("embedding",), generator.embedding.name)
