"""Relative positions, against transformers' implementations and against the papers' formulas written as loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.common import results

from taxonomy import registry, sharding, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.layers.relative import alibi_slopes

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((2, 7, 3, 16)).astype(np.float32)
# Two rows, each with two documents.
POSITIONS = np.asarray([[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4]], np.int32) * 5


def position(sentence: str):
    return registry.create("position", sentence, "position", d_model=12, context=40)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 8, 12, 20])
def test_alibi_slopes_are_those_of_transformers_bloom(heads):
    import torch
    from transformers.models.bloom import modeling_bloom as modeling

    # At position 1 the tensor is the slope itself.
    expected = modeling.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    np.testing.assert_allclose(alibi_slopes(heads), expected, rtol=1e-6)


def test_alibi_slopes_are_those_of_the_paper():
    assert alibi_slopes(8) == [2**-n for n in range(1, 9)]
    np.testing.assert_allclose(alibi_slopes(16), [2 ** (-n / 2) for n in range(1, 17)])
    # Section 3: for a head count between powers of two, every other slope of the next power fills up.
    assert alibi_slopes(12) == pytest.approx([2**-n for n in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_alibi_subtracts_slope_times_distance():
    bias = position("alibi").bias(3)(jnp.asarray(X), jnp.asarray(POSITIONS), jnp.asarray(POSITIONS[:, ::-1]), None)
    half = position("alibi(scale=0.5)").bias(3)(jnp.asarray(X), jnp.asarray(POSITIONS), jnp.asarray(POSITIONS[:, ::-1]), None)
    np.testing.assert_allclose(half, 0.5 * bias, rtol=1e-6)
    slopes = alibi_slopes(3)
    assert bias.shape == (2, 3, 7, 7) and bias.dtype == jnp.float32
    for b, h, t, s in np.ndindex(*bias.shape):
        distance = abs(int(POSITIONS[b, t]) - int(POSITIONS[b, 6 - s]))
        assert bias[b, h, t, s] == pytest.approx(-slopes[h] * distance, rel=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (4, 9)])
def test_buckets_are_those_of_transformers_t5(buckets, max_distance, bidirectional):
    import torch
    from transformers.models.t5 import modeling_t5 as modeling

    ahead = np.arange(-200, 201)
    expected = modeling.T5Attention._relative_position_bucket(torch.tensor(ahead), bidirectional, buckets, max_distance)
    sentence = f"t5_bias(buckets={buckets}, max_distance={max_distance}, bidirectional={bidirectional}, initializer=normal(std=1))"
    np.testing.assert_array_equal(position(sentence).bucket(jnp.asarray(ahead)), expected)


def test_t5_biases_are_looked_up_by_bucket_and_head(random_params):
    module = attention("t5_bias(buckets=4, max_distance=9)")
    params = random_params(module, STREAM, CONTEXT)
    table = np.asarray(params["position"]["table"])
    assert table.shape == (4, 4)
    # Of four buckets two are exact; 2 to 4 are nearer than 9 ** 0.5 * 2 ** 0.5 = 4.24.
    bucket = [0, 1, 2, 2, 2, 3, 3, 3, 3]
    check(module, params, lambda q, k, i, j, h: table[bucket[max(0, i - j)], h])


@pytest.mark.parametrize("parts", [False, True])
def test_transformer_xl_is_its_formula(parts, random_params):
    """Dai et al. 2019, section 3.3, terms (a) to (d): (q_i + u) k_j + (q_i + v) W R_{i-j}, all times the scale.

    With parts also (q_i + b) s, with one s for keys of the query's part and one for all others (Yang et al. 2019, section 2.5).
    """
    module, context = attention("transformer_xl(base=100)"), CONTEXT
    part = lambda place: 1 * (place >= 2) + (place >= 5)  # noqa: E731
    if parts:
        module, context = attention("transformer_xl(base=100, parts=True)", "full"), CONTEXT.replace(types_BT=part(PLACES))
    params = random_params(module, STREAM, context)
    own = {name: np.asarray(value, np.float64) for name, value in params["position"].items()}
    assert {name: value.shape for name, value in own.items()} == {
        "kernel": (12, 4, 3),
        "content_bias": (4, 3),
        "position_bias": (4, 3),
        **({"parts": (2, 4, 3), "part_bias": (4, 3)} if parts else {}),
    }

    def wave(distance: int) -> np.ndarray:
        angles = distance / 100 ** (2 * np.arange(6) / 12)
        return np.concatenate([np.sin(angles), np.cos(angles)])

    def added(q, k, i, j, h):
        r = wave(i - j) @ own["kernel"][:, h]
        of_part = (q + own["part_bias"][h]) @ own["parts"][int(part(i) != part(j)), h] if parts else 0
        return (own["content_bias"][h] @ k + (q + own["position_bias"][h]) @ r + of_part) * 3**-0.5

    check(module, params, added, context)


def test_parts_need_all_tokens_at_once():
    with pytest.raises(UserError, match=r"transformer_xl\(parts=True\) needs a mask that looks both ways, such as mask=full"):
        attention("transformer_xl(parts=True)")


STREAM = GENERATOR.standard_normal((2, 9, 12)).astype(np.float32)
PLACES = np.asarray([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 0, 1, 2, 3, 4, 5]])
SEGMENTS = np.asarray([[1] * 9, [1] * 3 + [2] * 6])
CONTEXT = Context(jnp.asarray(PLACES), jnp.asarray(SEGMENTS))


def attention(position: str, mask: str = "causal"):
    keys = {"position": position, "mask": mask, "initializer": "normal(std=1)"}
    scope = spec.Scope("attention", {"d_model": 12, "context": 9}, keys)
    return registry.instantiate(spec.resolve("mha(heads=4)", ("attention",), scope))


def check(module, params, added, context=CONTEXT):
    """The sublayer is attention whose scores have `added(q_i, k_j, i, j, head)`, packed rows and decoding included."""
    causal = registry.instantiate(module.mask).causal
    x, p = np.asarray(STREAM, np.float64), {k: np.asarray(v, np.float64) for k, v in params.items() if k != "position"}
    q, k, v = (np.einsum("btd,dhk->bthk", x, p[name]) for name in ("query", "key", "value"))
    expected = np.zeros((2, 9, 12))
    for b, t, h in np.ndindex(2, 9, 4):
        seen = [s for s in range(t + 1 if causal else 9) if SEGMENTS[b, s] == SEGMENTS[b, t]]
        scores = [
            q[b, t, h] @ k[b, s, h] * 3**-0.5 + added(q[b, t, h], k[b, s, h], int(PLACES[b, t]), int(PLACES[b, s]), h) for s in seen
        ]
        weights = np.exp(scores - np.max(scores))
        expected[b, t] += (weights / weights.sum()) @ v[b, seen, h] @ p["out"][h]
    found = jax.jit(module.apply)({"params": params}, STREAM, context)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if not causal:
        return

    # The first row again, in steps of 4, 1, 1 and 3 tokens, with keys from a cache.
    cache, pieces = {}, []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9)):
        context = Context(jnp.arange(start, stop)[None], cache_length=11)
        y, cache = module.apply({"params": params, **cache}, STREAM[:1, start:stop], context, mutable=["cache"])
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, 1), expected[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mask", ["full", "local(window=40)", "causal"])
def test_shifting_columns_is_gathering_by_distance(mask, random_params):
    """Chunks of aligned queries against all of them at once with keys in any order."""
    time = 150
    module = attention("transformer_xl", mask)
    x = GENERATOR.standard_normal((1, time, 12)).astype(np.float32)
    places = jnp.arange(time)[None]
    params = random_params(module, x, Context(places))
    found = jax.jit(module.apply)({"params": params}, x, Context(places))
    gathered, _ = module.apply({"params": params}, x, Context(places, cache_length=time), mutable=["cache"])
    np.testing.assert_allclose(found, gathered, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_devices_sum_the_table_of_biases_and_no_scores(bidirectional, random_params):
    """Its gradient is that of one device, where the batch and the heads are divided."""
    module = attention(f"t5_bias(bidirectional={bidirectional})", "full" if bidirectional else "causal")
    x = GENERATOR.standard_normal((8, 40, 12)).astype(np.float32)
    params = random_params(module, x, Context(jnp.tile(jnp.arange(40), (8, 1))))

    def loss(params, x):
        return (module.apply({"params": params}, x, Context(jnp.tile(jnp.arange(40), (8, 1)))) ** 2).mean()

    expected, mesh = jax.grad(loss)(params, x), sharding.make_mesh("fsdp:4,tensor:2", jax.devices()[:8])
    with jax.set_mesh(mesh):
        of_rows = jax.NamedSharding(mesh, jax.P("fsdp"))
        compiled = jax.jit(jax.grad(loss), in_shardings=(None, of_rows)).lower(params, x).compile()
    found = compiled(params, jax.device_put(x, of_rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
    assert max(map(math.prod, results(compiled.as_text(), "all-reduce"))) < 40 * 40


def test_impossible_buckets():
    with pytest.raises(UserError, match="max_distance=16 must be above the 16 distances with buckets of their own"):
        position("t5_bias(max_distance=16, initializer=normal(std=1))")
