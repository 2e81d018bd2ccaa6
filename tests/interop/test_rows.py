"""The language of rows: what a pattern does, and that it does the inverse in the other direction."""

import numpy as np
import pytest

from taxonomy.interop.rows import Rearrangement, Row

D, H, G, K, F, E = 6, 4, 2, 3, 5, 7


def ours(*shapes):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def per_group(q, k, v):
    """For each group its queries, then its key and its value."""
    blocks = [[q[:, g * (H // G) + r] for r in range(H // G)] + [k[:, g], v[:, g]] for g in range(G)]
    return np.concatenate([np.concatenate(block, 1) for block in blocks], 1).T


CASES = {
    "same": ("", [(D, F)], lambda w: w, {}),
    "transposed": ("f d -> d f", [(D, F)], lambda w: w.T, {}),
    "heads": ("(h k) d -> d h k", [(D, H, K)], lambda w: w.reshape(D, H * K).T, {}),
    "heads last": ("d (h k) -> h k d", [(H, K, D)], lambda w: w.reshape(H * K, D).T, {}),
    "heads of a bias": ("(h k) -> h k", [(H, K)], lambda w: w.reshape(-1), {}),
    "one after another": (
        "d (+h k) -> d h k",
        [(D, H, K), (D, G, K), (D, G, K)],
        lambda *w: np.concatenate([x.reshape(D, -1) for x in w], 1),
        {},
    ),
    "one after another, biases": ("(+h k) -> h k", [(H, K)] * 3, lambda *w: np.concatenate([x.reshape(-1) for x in w]), {}),
    "in turn in every head": (
        "(h +n k) d -> d h k",
        [(D, H, K)] * 3,
        lambda *w: np.stack(w, 2).reshape(D, -1).T,
        {},
    ),
    "in turn in every group": (
        "(kv_heads +r k) d -> d (kv_heads r) k",
        [(D, H, K), (D, G, K), (D, G, K)],
        per_group,
        {"kv_heads": G, "heads": H},
    ),
    "gate and up": ("+f d -> d f", [(D, F)] * 2, lambda a, b: np.concatenate([a.T, b.T]), {}),
    "gate and up in turn": ("e d (f +n) -> e d f", [(E, D, F)] * 2, lambda *w: np.stack(w, -1).reshape(E, D, 2 * F), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_both_directions(case):
    pattern, shapes, expected, known = CASES[case]
    parts, rearrangement = ours(*shapes), Rearrangement(pattern)
    theirs = expected(*parts)
    assert rearrangement.theirs_shape(shapes, known) == theirs.shape
    np.testing.assert_array_equal(rearrangement.to_theirs(parts, known), theirs)
    for mine, back in zip(parts, rearrangement.to_ours(theirs, shapes, known), strict=True):
        np.testing.assert_array_equal(back, mine)


def test_split_tensors_are_counted_on_the_first_axis():
    row = Row("h.{layer}.experts.{e}.w1", "decoder/{layer}/moe/gate", "e f d -> e d f")
    (gate,) = ours((E, D, F))
    shape = row.rearrangement.theirs_shape([gate.shape], {})
    assert shape == (E, F, D)
    assert row.names(3, shape[:1]) == [f"h.3.experts.{e}.w1" for e in range(E)]
    np.testing.assert_array_equal(row.rearrangement.to_theirs([gate], {}), gate.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("theirs", "paths", "pattern"),
    [
        ("w", "a", "d f -> d"),  # an axis of theirs is lost
        ("w", "a", "d -> d f"),  # an axis of ours comes from nowhere
        ("w", "a", "d d -> d"),
        ("w", "a", "d f"),
        ("w", ("a", "b"), "+d +f -> d f"),  # joined twice
        ("w", ("a", "b"), "d f -> f d"),  # not joined
        ("w", ("a", "b"), ""),
        ("w", "a", "+d -> d"),  # joined with nothing
        ("{e}.w", "a", "f d -> d f"),  # no axis to count
    ],
)
def test_a_mistaken_row_is_refused_when_it_is_written(theirs, paths, pattern):
    with pytest.raises(ValueError):
        Row(theirs, paths, pattern)


@pytest.mark.parametrize(
    ("pattern", "shapes", "known"),
    [
        ("(h k) d -> d h k", [(D, H)], {}),
        ("(g r k) d -> d (g r) k", [(D, H, K)], {}),  # one number, two unknown sizes
        ("(kv_heads r k) d -> d (kv_heads r) k", [(D, H, K)], {"kv_heads": 3}),
        ("heads d -> d heads", [(D, H)], {"heads": H + 1}),
        ("d (+h k) -> d h k", [(D, H, K), (D, H, K + 1)], {}),
    ],
)
def test_shapes_that_do_not_fit(pattern, shapes, known):
    with pytest.raises(ValueError):
        Rearrangement(pattern).theirs_shape(shapes, known)
