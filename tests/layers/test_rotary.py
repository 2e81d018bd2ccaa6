"""Rotary positions, against transformers' implementations and against their definitions written as loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.layers.context import Context

X = np.random.default_rng(0).standard_normal((2, 7, 3, 16)).astype(np.float32)
# Two rows, each with two documents.
POSITIONS = np.asarray([[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4]], np.int32) * 5


def position(sentence: str):
    return registry.create("position", sentence, "position")


def angle(place: int, pair: int, dims: int, theta: float) -> float:
    return place * theta ** (-2 * pair / dims)


@pytest.mark.parametrize("theta", [10000.0, 500.0])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dims", [None, 4, 16])
def test_rope_rotates_pairs(dims, interleaved, theta):
    rotated = position(f"rope(theta={theta}, dims={dims}, interleaved={interleaved})").rotate(jnp.asarray(X), POSITIONS)
    expected, dims = X.astype(np.float64), dims or 16
    for b, t, h in np.ndindex(X.shape[:3]):
        for pair in range(dims // 2):
            i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + dims // 2)
            turn = np.exp(1j * angle(int(POSITIONS[b, t]), pair, dims, theta))
            turned = (X[b, t, h, i] + 1j * X[b, t, h, j]) * turn
            expected[b, t, h, i], expected[b, t, h, j] = turned.real, turned.imag
    np.testing.assert_allclose(rotated, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_xpos_decays_with_the_distance(interleaved):
    """Sun et al. 2022, arXiv:2212.10554: the products of rotated pairs times zeta ** distance, wherever the center is."""
    options = f"theta=100, dims=8, interleaved={interleaved}"
    context = Context(jnp.asarray(POSITIONS))
    rotated = position(f"rope({options})").rotate(jnp.asarray(X), POSITIONS)
    for center in (0, 40):
        q, k, bias = position(f"xpos({options}, base=16, center={center})").attend(X, X, context, 1.0)
        assert bias is None
        np.testing.assert_array_equal(q[..., 8:], X[..., 8:])
        for t, s in np.ndindex(X.shape[1], X.shape[1]):
            for i in range(8):
                pair = i // 2 if interleaved else i % 4
                distance = int(POSITIONS[0, t]) - int(POSITIONS[0, s])
                zeta = (pair / 4 + 0.4) / 1.4
                expected = rotated[0, t, 0, i] * rotated[0, s, 0, i] * zeta ** (distance / 16)
                np.testing.assert_allclose(q[0, t, 0, i] * k[0, s, 0, i], expected, rtol=1e-4, atol=1e-5)


def test_rope_is_that_of_transformers_llama():
    import torch
    from transformers.models.llama import modeling_llama as modeling

    config = modeling.LlamaConfig(hidden_size=48, num_attention_heads=3, head_dim=16)
    cos, sin = modeling.LlamaRotaryEmbedding(config)(torch.tensor(X), torch.tensor(POSITIONS))
    expected, _ = modeling.apply_rotary_pos_emb(torch.tensor(X), torch.tensor(X), cos, sin, unsqueeze_dim=2)
    np.testing.assert_allclose(position("rope").rotate(jnp.asarray(X), POSITIONS), expected, rtol=1e-5, atol=1e-5)


def test_interleaved_rope_is_that_of_transformers_gptj():
    import torch
    from transformers.models.gptj import modeling_gptj as modeling

    table = modeling.create_sinusoidal_positions(64, 8)[torch.tensor(POSITIONS).long()]
    sin, cos = table.chunk(2, dim=-1)
    expected = torch.tensor(X)
    expected = torch.cat([modeling.apply_rotary_pos_emb(expected[..., :8], sin, cos), expected[..., 8:]], -1)
    rotated = position("rope(dims=8, interleaved=True)").rotate(jnp.asarray(X), POSITIONS)
    np.testing.assert_allclose(rotated, expected, rtol=1e-5, atol=1e-5)


SCALINGS = {
    "linear(factor=4)": dict(rope_type="linear", factor=4.0),
    "by_parts(factor=8, low=1, high=4, original_context=64)": dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    ),
    "by_parts(factor=16, low=1, high=1, original_context=64)": dict(
        rope_type="llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_max_position_embeddings=64
    ),
    "yarn(factor=8, original_context=64)": dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=64),
    "yarn(factor=4, original_context=128, fast=16, slow=2, magnitude=1.5, rounded=False)": dict(
        rope_type="yarn",
        factor=4.0,
        original_max_position_embeddings=128,
        beta_fast=16.0,
        beta_slow=2.0,
        attention_factor=1.5,
        truncate=False,
    ),
}


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_rope_is_that_of_transformers(scaling):
    import torch
    from transformers.models.llama import modeling_llama as modeling

    config = modeling.LlamaConfig(
        hidden_size=48,
        num_attention_heads=3,
        head_dim=16,
        max_position_embeddings=512,
        rope_parameters=dict(rope_theta=10000.0, **SCALINGS[scaling]),
    )
    rotary = modeling.LlamaRotaryEmbedding(config)
    ratio = rotary.inv_freq * 10000 ** (torch.arange(0, 16, 2) / 16)
    if "linear" not in scaling:  # some kept, some divided, and unless there is no way between, some between
        assert len({round(float(r), 3) for r in ratio}) >= (2 if "low=1, high=1," in scaling else 3)
    cos, sin = rotary(torch.tensor(X), torch.tensor(POSITIONS))
    expected, _ = modeling.apply_rotary_pos_emb(torch.tensor(X), torch.tensor(X), cos, sin, unsqueeze_dim=2)
    found = position(f"rope(scaling={scaling})").rotate(jnp.asarray(X), POSITIONS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_ntk_scaling_is_that_of_transformers_at_its_length():
    """Theirs grows the factor with the length; at factor 4 and four times the trained length it is (4 * 4 - 3)."""
    import torch
    from transformers.models.llama import modeling_llama as modeling

    parameters = dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)
    config = modeling.LlamaConfig(
        hidden_size=48, num_attention_heads=3, head_dim=16, max_position_embeddings=32, rope_parameters=parameters
    )
    rotary, long = modeling.LlamaRotaryEmbedding(config), torch.arange(128)[None]
    rotary(torch.tensor(X), long)
    found = registry.create("rope_scaling", "ntk(factor=13)", "scaling").frequencies(10000.0, 16)
    np.testing.assert_allclose(found, rotary.inv_freq, rtol=1e-5)


def test_ntk_scaling_divides_the_lowest_frequency_and_keeps_the_highest():
    plain, scaled = (registry.create("rope_scaling", s, "scaling").frequencies(1e4, 64) for s in ("ntk(factor=1)", "ntk(factor=8)"))
    np.testing.assert_allclose(plain / scaled, np.geomspace(1, 8, 32), rtol=1e-4)


def test_a_factor_is_at_least_one():
    with pytest.raises(UserError, match=r"factor=0\.5 must be at least 1"):
        position("rope(scaling=linear(factor=0.5))")


@pytest.mark.parametrize(
    "sentence",
    ["rope", "rope(interleaved=True)", "rope(dims=6)", "rope(scaling=by_parts(8, 1, 4, 32))", "rope(scaling=yarn(4, 32))"],
)
def test_rotated_products_depend_on_the_distance_only(sentence):
    rope, q, k = position(sentence), X[:1, :1], X[1:, :1]
    rotate = lambda x, place: rope.rotate(jnp.asarray(x), jnp.full((1, 1), place))  # noqa: E731
    scores = [jnp.einsum("bthk,bthk->h", rotate(q, n + 9), rotate(k, n)) for n in (0, 3, 40)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-4, atol=1e-4)
    assert not np.allclose(scores[0], jnp.einsum("bthk,bthk->h", rotate(q, 8), rotate(k, 0)), atol=1e-2)


def test_rope_computes_in_float32():
    place = np.full((2, 7), 30000)
    exact = position("rope").rotate(jnp.asarray(X, jnp.bfloat16).astype(jnp.float32), place)
    half = position("rope").rotate(jnp.asarray(X, jnp.bfloat16), place)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))
