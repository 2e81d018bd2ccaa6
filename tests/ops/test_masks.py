"""Masks, against loops over all pairs of positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError

ORACLES = {
    "full": lambda q, k: True,
    "causal": lambda q, k: k <= q,
    "local(window=1)": lambda q, k: k == q,
    "local(window=3)": lambda q, k: q - 3 < k <= q,
    "local(window=100)": lambda q, k: k <= q,
    "chunks(size=1)": lambda q, k: k == q,
    "chunks(size=3)": lambda q, k: k <= q and k // 3 == q // 3,
    "chunks(size=100)": lambda q, k: k <= q,
    "prefix": lambda q, k: k <= q,
    "around(sides=1)": lambda q, k: k in (q - 1, q, q + 1),
    "around(sides=3)": lambda q, k: q - 3 <= k <= q + 3,
    "permutation": lambda q, k: True,
    # Child et al. 2019, section 4.3.
    "strided(stride=3, part='local')": lambda q, k: max(0, q - 3) <= k <= q,
    "strided(stride=3, part='strided')": lambda q, k: k <= q and (q - k) % 3 == 0,
    "strided(stride=3)": lambda q, k: k <= q and (q - k <= 3 or (q - k) % 3 == 0),
    "fixed(stride=4, summary=2, part='block')": lambda q, k: k <= q and k // 4 == q // 4,
    "fixed(stride=4, summary=2, part='summary')": lambda q, k: k == q or (k <= q and k % 4 in (2, 3)),
    "fixed(stride=4, summary=1)": lambda q, k: k <= q and (k // 4 == q // 4 or k % 4 == 3),
}
Q, K = np.asarray([0, 1, 5, 2, 9, 4]), np.asarray([0, 3, 1, 4, 2, 9, 5, 8])


@pytest.mark.parametrize("sentence", ORACLES)
def test_what_a_query_may_see(sentence):
    mask = registry.create("mask", sentence, "mask")
    found = mask.allowed(jnp.asarray(Q)[:, None], jnp.asarray(K)[None, :])
    assert found.shape == (len(Q), len(K)) and found.dtype == bool
    for (i, q), (j, k) in ((a, b) for a in enumerate(Q) for b in enumerate(K)):
        assert bool(found[i, j]) == ORACLES[sentence](int(q), int(k)), (q, k)


@pytest.mark.parametrize("sentence", ORACLES)
def test_what_kernels_are_told_is_true(sentence):
    """`causal`, `window`, `ahead` and `mean_span` summarise `allowed`."""
    mask = registry.create("mask", sentence, "mask")
    for context in (1, 2, 7, 40):
        places = jnp.arange(context)
        allowed = np.asarray(mask.allowed(places[:, None], places[None, :]))
        assert np.diag(allowed).all()
        assert mask.mean_span(context) == pytest.approx(allowed.sum(1).mean())
        if mask.causal:
            assert not np.triu(allowed, 1).any()
        if mask.window is not None:
            assert not np.tril(allowed, -mask.window).any()
        if mask.ahead is not None:
            assert not np.triu(allowed, mask.ahead + 1).any()
    # A mask with a prefix is not causal, because the batch may add to it.
    assert mask.causal == (not ORACLES[sentence](0, 1) and not mask.prefix)


def test_masks_can_be_compared():
    local = lambda window: registry.create("mask", f"local(window={window})", "mask")  # noqa: E731
    assert local(3) == local(3) != local(4) and hash(local(3)) == hash(local(3))


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("local(window=0)", "window=0 must be at least 1"),
        ("chunks(size=0)", "size=0 must be at least 1"),
        ("around(sides=0)", "sides=0 must be at least 1"),
        ("strided(stride=0)", "stride=0 must be at least 1"),
        ("fixed(stride=4, summary=5)", "summary=5 must be at least 1 and at most stride=4"),
        ("fixed(stride=4, summary=2, part='local')", "argument 'part' takes one of 'both', 'block', 'summary'"),
    ],
)
def test_impossible_masks(sentence, said):
    with pytest.raises(UserError, match=said):
        registry.create("mask", sentence, "mask")
