"""What caches keep of a vector."""

import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy.layers import cache


@pytest.mark.parametrize("parts", [(), (7, 5)], ids=["whole", "parts"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_feature_is_off_by_more_than_half_a_scale(parts, dtype):
    """Of vectors of very different sizes, one of them zero; a scale is the largest magnitude, of each part, over 127."""
    sizes = np.array([0.0, 1e-20, 1e-3, 1.0, 1e4])[:, None, None]
    x = np.asarray(jnp.asarray(np.random.default_rng(0).standard_normal((5, 60, 12)) * sizes, dtype).astype(jnp.float32))
    counts, scales = cache.quantised(jnp.asarray(x, dtype), parts)
    assert counts.dtype == jnp.int8 and scales.dtype == jnp.float32 and scales.shape == (5, 60, len(parts) or 1)
    pieces = np.split(x, np.cumsum(parts)[:-1], -1) if parts else [x]
    expected = np.stack([np.abs(piece).max(-1) / 127 for piece in pieces], -1)
    np.testing.assert_allclose(scales, expected, rtol=1e-6)
    spread = np.repeat(expected, parts or (12,), axis=-1)
    error = np.abs(cache.dequantised(counts, scales, parts) - x)
    assert np.all(error <= 0.5001 * spread) and np.any(error > 0.49 * np.maximum(spread, 1e-30))
    assert np.abs(counts).max(-1)[1:].min() == 127 and not counts[0].any()


def test_bytes_of_a_token():
    """Two heads of 64 features, keys and values: a scale of four bytes beside each of them."""
    assert cache.kept_bytes((64,) * 4, "exact", "bfloat16") == 512
    assert cache.kept_bytes((64,) * 4, "int8", "bfloat16") == 4 * (64 + 4)
