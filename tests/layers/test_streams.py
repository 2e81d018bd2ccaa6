"""Two streams: who sees whom, against a reference written from the paper, and by gradients that are exactly zero."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.common import make, text
from training.common import RATE, SMOOTH, assert_trees_close, start, trainer_of

from taxonomy import config as config_lib
from taxonomy.errors import UserError
from taxonomy.layers import streams
from taxonomy.layers.context import Context
from taxonomy.model import build
from taxonomy.objectives.objective import Lengths

# Two documents in a row: one with tokens that are only read, one of which all tokens are predicted; and a row of one document.
SEGMENTS = np.array([[1] * 7 + [2] * 4, [1] * 11], np.int32)
POSITIONS = np.array([[*range(7), *range(4)], [*range(11)]], np.int32)
ORDER = np.array([[0, 3, 0, 1, 4, 0, 2, 2, 4, 1, 3], [0, 0, 5, 2, 0, 1, 0, 3, 4, 0, 0]], np.int32)


def visible(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whom each token's content and whom its query sees, (T, T) bools.

    Yang et al. 2019, section 2.3, word for word: g_{z_t} has keys and values h_{z_<t}, and h_{z_t} has h_{z_<=t}. In section 2.4
    the tokens before the cutting point are not predicted: all of them come before the others, and see each other.
    """
    read = [i for i in range(len(order)) if order[i] == 0]
    predicted = sorted((i for i in range(len(order)) if order[i] > 0), key=lambda i: order[i])
    content, query = np.zeros((2, len(order), len(order)), bool)
    for i in read:
        content[i, read] = True
    for t, i in enumerate(predicted):
        query[i, [*read, *predicted[:t]]] = True
        content[i, [*read, *predicted[: t + 1]]] = True
    return content, query


@pytest.mark.parametrize("objective", ["permutation_lm", "permutation_lm(whole_spans=True)", "permutation_lm(partial=1)"])
def test_ranks_say_what_the_paper_says(objective):
    rows = np.stack([make(objective, text(60), seed, lengths=Lengths(60)).order for seed in range(20)])
    ranks = streams.begin(Context(jnp.zeros_like(rows)), jnp.asarray(rows), jnp.zeros((1, 1, 8)))
    seen = streams.key_ranks(ranks)[:, None, :] <= ranks.ranks_BT[:, :, None]
    for row, order in enumerate(rows):
        content, query = visible(order)
        np.testing.assert_array_equal(seen[2 * row], content)
        np.testing.assert_array_equal(seen[2 * row + 1], query)


def test_streams_of_a_row_stand_side_by_side():
    context = Context(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))
    vector, x = jnp.arange(4.0).reshape(1, 1, 4), jnp.asarray(np.random.default_rng(0).standard_normal((2, 11, 4)))
    two = streams.begin(context, jnp.asarray(ORDER), vector)
    np.testing.assert_array_equal(two.positions_BT, POSITIONS[[0, 0, 1, 1]])
    np.testing.assert_array_equal(two.segments_BT, SEGMENTS[[0, 0, 1, 1]])
    assert two.prefix_BT is None and two.types_BT is None
    both = streams.with_queries(x, two)
    np.testing.assert_array_equal(both[::2], x)
    np.testing.assert_array_equal(both[1::2], np.broadcast_to(vector, x.shape))
    np.testing.assert_array_equal(streams.seen(both, two), x)
    np.testing.assert_array_equal(streams.end(both, jnp.asarray(ORDER)), np.where(ORDER[..., None] > 0, vector, x))
    assert streams.with_queries(x, context) is streams.seen(x, context) is streams.shared(x, context) is x


# The page; the same idea in another model, by one flag; other positions; and layers with a mask of their own.
NEAR = {"near": "mha(heads=4, mask=local(window=4))", "blocks": {"near": "post(near, mlp)", "block": "post(attention, mlp)"}}
MODELS = {
    "xlnet": ("xlnet:tiny", {}),
    "bert": ("bert:tiny", {"mask": "permutation"}),
    "rotary": ("xlnet:tiny", {"position": "rope"}),
    "windows": ("xlnet:tiny", {"position": "t5_bias(shared=True)", "encoder": "near + block", **NEAR}),
}


def ordered(name: str):
    page, changes = MODELS[name]
    section = config_lib.load_config(page).model.to_dict()
    return build(section | {key.removeprefix(""): value for key, value in changes.items()})


def batch_of(vocab: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, vocab, ORDER.shape, dtype=np.int32)
    return dict(tokens=tokens, positions=POSITIONS, segments=SEGMENTS, order=ORDER)


@pytest.mark.parametrize("name", MODELS)
def test_no_token_reaches_its_own_prediction(name, random_params):
    """Gradients of every output by every embedded token of both streams."""
    model = ordered(name)
    batch = batch_of(model.spec.vocab)
    params = random_params(model, **batch)

    def outputs(offset):
        def add(next_call, args, kwargs, call):
            y = next_call(*args, **kwargs)
            return y + offset if call.module.name == "embedding" and call.method_name == "__call__" else y

        with nn.intercept_methods(add):
            return model.apply({"params": params}, **batch, method="features")

    @jax.jit
    def influence():
        y, pull = jax.vjp(outputs, jnp.zeros((2 * len(ORDER), ORDER.shape[1], model.spec.d_model)))
        direction = jax.random.normal(jax.random.key(0), y.shape[-1:])
        of_place = lambda t: jnp.abs(pull(jnp.zeros_like(y).at[:, t].set(direction))[0]).max(-1)  # noqa: E731
        return jax.lax.map(of_place, jnp.arange(y.shape[1]))

    found = np.asarray(influence()).swapaxes(0, 1) != 0
    for row, (order, segments) in enumerate(zip(ORDER, SEGMENTS, strict=True)):
        content, query = visible(order)
        expected = np.where(order[:, None] > 0, query, content) & (segments[:, None] == segments)
        np.testing.assert_array_equal(found[2 * row], expected)
        np.testing.assert_array_equal(found[2 * row + 1], np.diag(order > 0))


def test_tokens_that_are_only_read_need_no_order(tiny):
    """An order of zeros is none; and none has a gradient for the vector that queries begin with."""
    one = tiny("xlnet")
    batch = batch_of(one.spec.vocab)
    order, targets = batch.pop("order"), batch["tokens"]

    @jax.jit
    def of(params, **more):
        loss = lambda params: one.model().apply({"params": params}, targets=targets, **batch, **more, method="loss").loss  # noqa: E731
        return jax.value_and_grad(loss)(params)

    (plain, gradient), (zeros, _), (_, asked) = of(one.params), of(one.params, order=0 * order), of(one.params, order=order)
    np.testing.assert_allclose(zeros, plain, rtol=1e-6)
    assert not np.any(gradient["query"]["vector"]) and np.any(asked["query"]["vector"])


def test_packed_is_unpacked_in_an_order(tiny):
    one = tiny("xlnet")
    batch = batch_of(one.spec.vocab)
    apply = jax.jit(lambda batch: one.model().apply({"params": one.params}, **batch))
    together = apply(batch)
    for columns in (np.s_[:1, :7], np.s_[:1, 7:]):
        alone = {name: array[columns] for name, array in batch.items() if name in ("tokens", "order")}
        np.testing.assert_allclose(together[columns], apply(alone), rtol=1e-4, atol=1e-5)


def test_many_devices_are_one_in_an_order(tiny):
    """The streams of a row stay on its device."""
    one = tiny("xlnet")
    batch = {name: np.tile(array, (4, 1)) for name, array in batch_of(one.spec.vocab).items()}
    batch |= {"targets": batch["tokens"], "weights": (batch["order"] > 0).astype(np.float32)}
    expected, metrics = (alone := trainer_of(one.spec, SMOOTH, 1.0)).step(start(alone, one.params), alone.put(batch), RATE)
    many = trainer_of(one.spec, SMOOTH, 1.0, mesh="data:2,fsdp:2,tensor:2", devices=8)
    spread, found = many.step(start(many, one.params), many.put(batch), RATE)
    assert_trees_close(spread.params, expected.params, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)


def test_impossible_orders_are_errors(tiny):
    plain = tiny("bert")
    with pytest.raises(UserError, match="order: not read by this model"):
        plain.model().apply({"params": plain.params}, **batch_of(plain.spec.vocab))
    with pytest.raises(UserError, match=r"model.blocks.block: mask=permutation needs model.encoder and no model.decoder"):
        build(config_lib.load_config("llama:tiny", {"model.mask": "permutation"}).model)
