"""Latent attention against the equations of its paper, one head, query and key at a time; and its two forms against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.layers.latent_attention import LatentAttention

KEYS = {"position": "rope(interleaved=True)", "mask": "causal", "initializer": "normal(std=1)", "norm": "rmsnorm(eps=1e-6)"}
X = np.random.default_rng(0).standard_normal((2, 9, 24)).astype(np.float32) / 2
SIZES = "heads=3, kv_rank=10, head_dim=6, rotary_dim=4, value_dim=5"
PLACES, DOCUMENTS = np.array([0, 1, 2, 3, 0, 1, 2]), np.array([1, 1, 1, 1, 2, 2, 2])
PLAIN = Context(jnp.broadcast_to(jnp.arange(9), (2, 9)))


def sublayer(arguments: str = SIZES, **keys: str):
    scope = spec.Scope("attention", {"d_model": 24, "context": 9}, {**KEYS, **keys})
    return registry.instantiate(spec.resolve(f"latent({arguments})", ("attention",), scope))


def normed(x, norm):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"]


def turned(x, place, theta: float = 10000.0):
    """Neighbours as complex numbers, turned by angles that fall with their place in the vector."""
    z = (x[0::2] + 1j * x[1::2]) * jnp.exp(1j * place * theta ** (-jnp.arange(0, len(x), 2) / len(x)))
    return jnp.stack([z.real, z.imag], -1).reshape(-1)


def by_the_paper(p, x_TD, scale: float, rotated: bool = True):
    """Equations 37 to 47 of arXiv:2405.04434, for two documents in a row."""
    rope = turned if rotated else lambda v, place: v
    c_q = [normed(h @ p["query_latent"], p["query_latent_norm"]) if "query_latent" in p else h for h in x_TD]
    c_kv = [normed(h @ p["latent"], p["latent_norm"]) for h in x_TD]
    k_r = [rope(h @ p["rotary_key"], place) for h, place in zip(x_TD, PLACES, strict=True)]
    outputs, width = [], p["key"].shape[2]
    for t in range(len(x_TD)):
        seen, u = [s for s in range(t + 1) if DOCUMENTS[s] == DOCUMENTS[t]], 0
        for i in range(len(p["out"])):
            q = c_q[t] @ p["query"][:, i]
            q_c, q_r = q[:width], rope(q[width:], PLACES[t])
            weights = jax.nn.softmax(jnp.stack([q_c @ (c_kv[s] @ p["key"][:, i]) + q_r @ k_r[s] for s in seen]) * scale)
            u += sum(weights[n] * (c_kv[s] @ p["value"][:, i]) for n, s in enumerate(seen)) @ p["out"][i]
        outputs.append(u)
    return jnp.stack(outputs)


@pytest.mark.parametrize(
    ("arguments", "keys", "scale"),
    [
        (f"{SIZES}, query_rank=7", {}, 10**-0.5),
        (SIZES, {}, 10**-0.5),
        (f"{SIZES}, query_rank=7, scale=0.4", {"position": "none"}, 0.4),
        # sqrt(t) = 0.0707 ln s + 1, section 3.1.4; a factor so near the first context changes no frequency.
        (SIZES, {"position": "rope(interleaved=True, scaling=yarn(40, 1e9, magnitude=1, sharpening=0.707))"}, None),
    ],
)
def test_it_is_that_of_the_paper(arguments, keys, scale, random_params):
    """Outputs, and gradients of all parameters and of the input."""
    module, context = sublayer(arguments, **keys), Context(jnp.asarray(PLACES[None]), jnp.asarray(DOCUMENTS[None]))
    x_TD = X[0, : len(PLACES)]
    params = random_params(module, x_TD[None], context)
    scale = scale or (0.0707 * np.log(40) + 1) ** 2 * 10**-0.5
    direction_TD = np.random.default_rng(1).standard_normal(x_TD.shape)

    def found(params, x_TD):
        return module.apply({"params": params}, x_TD[None], context)[0]

    def expected(params, x_TD):
        return by_the_paper(params, x_TD, scale, rotated=keys.get("position") != "none")

    def with_gradients(f):
        y_TD, pull = jax.vjp(f, params, x_TD)
        return y_TD, pull(direction_TD)

    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, with_gradients(found), with_gradients(expected))


# Every kind of position: turned features, biases on scores, and biases that read the queries.
KINDS = ["rope(interleaved=True)", "xpos(dims=2)", "none", "alibi", "t5_bias(buckets=4, max_distance=6)", "transformer_xl"]


@pytest.mark.parametrize("mask", ["causal", "local(window=3)"])
@pytest.mark.parametrize("position", KINDS)
def test_both_forms_decode_what_the_full_forward_computes(position, mask, random_params, monkeypatch):
    """A ragged prompt, a chunk that wraps around a rolling cache, and single tokens, with queries absorbed or keys expanded."""
    module = sublayer(f"{SIZES}, query_rank=7", position=position, mask=mask)
    params = random_params(module, X, PLAIN)
    expected = module.apply({"params": params}, X, PLAIN)
    lengths = np.array([[2], [4]])
    for absorbs in (True, False):
        monkeypatch.setattr(LatentAttention, "_absorbs", lambda self, time, absorbs=absorbs: absorbs)
        reached, cache = np.zeros((2, 1), int), {}
        for new in (lengths, np.array([[3], [3]]), np.ones((2, 1), int), np.ones((2, 1), int)):
            place = np.arange(new.max())
            positions = np.where(place < new, reached + place, -1)
            chosen = np.arange(2)[:, None], np.maximum(positions, 0)
            context = Context(jnp.asarray(positions), cache_length=9)
            y, cache = module.apply({"params": params, **cache}, X[chosen], context, mutable=["cache"])
            there = positions >= 0
            np.testing.assert_allclose(y[there], expected[chosen][there], rtol=1e-5, atol=1e-5)
            reached = reached + new
        kept = jax.tree.map(jnp.shape, cache["cache"])
        slots = 3 if "local" in mask else 9
        assert kept == {"cached_key": (2, 1, slots, 10 + 4), "cached_value": (2, 1, slots, 0), "cached_position": (2, slots)}


def test_the_form_that_takes_fewer_flops_is_taken():
    """Per head and cached token: 2 T (2 L + rotary) absorbed, 2 T (head + rotary + value) + 2 L (head + value) expanded."""
    module = sublayer("heads=128, kv_rank=512, head_dim=128, rotary_dim=64")
    for time in (1, 170, 171, 4096):
        absorbed, expanded = time * (2 * 512 + 64), time * (128 + 64 + 128) + 512 * (128 + 128)
        assert module._absorbs(time) == (absorbed <= expanded)


def test_what_a_layer_costs():
    """Products of head_dim + rotary_dim and of value_dim for each key seen; a cache holds latents and shared keys."""
    t, s = np.indices((9, 9))
    for mask, allowed in (("causal", s <= t), ("full", s < 99), ("local(window=3)", (s <= t) & (t - s < 3))):
        module = sublayer(mask=mask)
        assert module.attention_flops(9) == pytest.approx(2 * 3 * (6 + 4 + 5) * allowed.sum() / 9)
        assert module.cache_widths() == (10, 4)


@pytest.mark.parametrize(
    ("arguments", "position", "said"),
    [
        (SIZES, "rope(dims=6)", "latent: rope rotates 6 dimensions; rotary_dim=4 allows an even number up to it"),
        (SIZES, "xpos(dims=8)", "latent: xpos rotates 8 dimensions; rotary_dim=4 allows an even number up to it"),
        (SIZES.replace("rotary_dim=4", "rotary_dim=3"), "rope", "latent: rope rotates 3 dimensions; rotary_dim=3 allows"),
        (SIZES, "transformer_xl(parts=True)", "needs a mask that looks both ways"),
        (f"{SIZES}, query_rank=0", "rope", "query_rank=0 must be at least 1"),
        (SIZES.replace("value_dim=5", "value_dim=0"), "rope", "value_dim=0 must be at least 1"),
    ],
)
def test_impossible_sizes_are_told(arguments, position, said):
    with pytest.raises(UserError) as e:
        sublayer(arguments, position=position)
    assert said in str(e.value)
