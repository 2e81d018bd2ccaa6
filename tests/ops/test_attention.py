"""Attention: the reference against loops, and the chunked form against the reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.layers.relative import alibi_slopes
from taxonomy.ops import attention
from taxonomy.ops.attention import Keys, Scores


def keys_of(k_BSGK, v_BSGK, positions, segments, aligned: bool) -> Keys:
    return Keys(k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2), positions, segments, aligned)


@dataclasses.dataclass
class Case:
    """Random arrays for an attention; `segments` packs documents with positions of their own."""

    time: int
    heads: int = 4
    groups: int = 2
    mask: str = "causal"
    segments: bool = False
    alibi: bool = False
    softcap: float | None = None
    sinks: bool = False
    batch: int = 2
    dtype: str = "float32"
    scale: float = 0.5

    def __str__(self):
        changed = (f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default)
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed)

    def arrays(self):
        generator = np.random.default_rng(self.time)
        shape = (self.batch, self.time)
        q = generator.standard_normal((*shape, self.heads, 8))
        k, v = generator.standard_normal((2, *shape, self.groups, 8))
        return tuple(jnp.asarray(a, self.dtype) for a in (q, k, v))

    def coordinates(self):
        if not self.segments:
            return jnp.broadcast_to(jnp.arange(self.time), (self.batch, self.time)), None
        generator = np.random.default_rng(self.time + 1)
        starts = generator.random((self.batch, self.time)) < 3 / self.time
        starts[:, 0] = True
        index = np.arange(self.time)
        positions = index - np.maximum.accumulate(np.where(starts, index, 0), 1)
        return jnp.asarray(positions), jnp.asarray(np.cumsum(starts, 1))

    def scores(self) -> Scores:
        bias = registry.create("position", "alibi", "position").bias(self.heads) if self.alibi else None
        sinks = jnp.linspace(-1.0, 3.0, self.heads) if self.sinks else None
        return Scores(registry.create("mask", self.mask, "mask"), self.scale, bias, self.softcap, sinks_H=sinks)

    def attend(self, q, k, v, implementation: str):
        positions, segments = self.coordinates()
        keys = keys_of(k, v, positions, segments, aligned=True)
        return attention.attend(q, positions, segments, keys, self.scores(), implementation)


SEEN = {
    "full": lambda q, k: True,
    "causal": lambda q, k: k <= q,
    "local(window=4)": lambda q, k: q - 4 < k <= q,
    "around(sides=3)": lambda q, k: q - 3 <= k <= q + 3,
    # Child et al. 2019, section 4.3, both patterns of each kind together.
    "strided(stride=4)": lambda q, k: max(0, q - 4) <= k <= q or (k <= q and (q - k) % 4 == 0),
    "fixed(stride=5, summary=2)": lambda q, k: k <= q and (k // 5 == q // 5 or k % 5 in (3, 4)),
    "chunks(size=4)": lambda q, k: k <= q and k // 4 == q // 4,
}


def loops(case: Case) -> np.ndarray:
    """Attention as its definition: for every query, the softmax over the keys it may see."""
    q, k, v = (np.asarray(a, np.float64) for a in case.arrays())
    positions, segments = case.coordinates()
    positions = np.asarray(positions)
    segments = np.zeros_like(positions) if segments is None else np.asarray(segments)
    y = np.zeros(q.shape)
    slopes = alibi_slopes(case.heads)
    for b, t, h in np.ndindex(q.shape[:3]):
        group, logits, values = h // (case.heads // case.groups), [], []
        for s in range(case.time):
            distance = int(positions[b, t] - positions[b, s])
            seen = SEEN[case.mask](int(positions[b, t]), int(positions[b, s]))
            if not seen or segments[b, t] != segments[b, s]:
                continue
            logit = q[b, t, h] @ k[b, s, group] * case.scale
            logit = logit if case.softcap is None else case.softcap * np.tanh(logit / case.softcap)
            logits.append(logit - case.alibi * slopes[h] * abs(distance))
            values.append(v[b, s, group])
        # A sink is a key whose weight goes nowhere.
        sink = np.exp(np.linspace(-1, 3, case.heads)[h] - np.max(logits)) if case.sinks else 0.0
        weights = np.exp(np.asarray(logits) - np.max(logits))
        y[b, t, h] = weights @ np.asarray(values) / (weights.sum() + sink)
    return y


@pytest.mark.parametrize(
    "case",
    [
        Case(11),
        Case(11, mask="full"),
        Case(11, mask="local(window=4)", segments=True),
        Case(11, mask="around(sides=3)", segments=True),
        Case(11, heads=6, groups=3, alibi=True, segments=True),
        Case(11, heads=4, groups=1, softcap=0.5),
        Case(23, mask="strided(stride=4)", segments=True),
        Case(23, mask="fixed(stride=5, summary=2)"),
        Case(11, heads=3, groups=3, softcap=2.0, alibi=True, mask="full", segments=True),
        Case(11, heads=6, groups=2, sinks=True, segments=True),
        Case(11, mask="chunks(size=4)", sinks=True, softcap=2.0, segments=True),
    ],
    ids=str,
)
def test_the_reference_is_the_definition(case):
    np.testing.assert_allclose(case.attend(*case.arrays(), "reference"), loops(case), rtol=1e-5, atol=1e-5)


CHUNKED = [
    # Chunks are of 64 queries at least, and no more than sixteen.
    Case(64),
    Case(65),
    Case(128, groups=4),
    Case(150, segments=True),
    Case(193, heads=4, groups=1, alibi=True),
    Case(150, softcap=1.0),
    Case(150, mask="local(window=1)"),
    Case(193, mask="local(window=33)", segments=True),
    Case(200, mask="local(window=64)", alibi=True),
    Case(200, mask="local(window=65)", segments=True, softcap=1.0),
    Case(200, mask="local(window=1000)"),
    Case(150, mask="full", segments=True),
    Case(1100, batch=1, heads=2, mask="local(window=100)", segments=True),
    Case(150, mask="strided(stride=12)", segments=True),
    Case(200, mask="strided(stride=70, part='local')"),
    Case(200, mask="fixed(stride=16, summary=3)"),
    Case(200, mask="fixed(stride=70, summary=3, part='block')", segments=True),
    Case(150, mask="prefix", segments=True),
    Case(150, mask="around(sides=7)", segments=True),
    Case(200, mask="around(sides=90)", alibi=True),
    # More than sixteen windows: chunks join the batch.
    Case(1111, batch=1, heads=2, mask="around(sides=20)", segments=True, alibi=True),
    Case(1100, heads=2, groups=1, mask="local(window=30)", softcap=1.0),
    Case(150, sinks=True, segments=True),
    Case(1100, mask="chunks(size=30)", sinks=True),
    Case(200, mask="chunks(size=70)", segments=True),
    # So long that weights are computed again.
    Case(1030, batch=1, heads=2, alibi=True, segments=True, sinks=True),
    Case(1030, batch=1, heads=2, groups=1, mask="full", softcap=1.0),
]


@pytest.mark.parametrize("case", CHUNKED, ids=str)
def test_chunks_give_the_reference_and_its_gradients(case):
    q, k, v = case.arrays()
    direction = np.random.default_rng(3).standard_normal(q.shape).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def both(implementation, *arrays):
        y, pull = jax.vjp(lambda *arrays: case.attend(*arrays, implementation), *arrays)
        return y, *pull(jnp.asarray(direction))

    found, expected = (both(implementation, q, k, v) for implementation in ("chunked", "reference"))
    for name, one, other in zip(("output", "queries", "keys", "values"), found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("mask", ["prefix", "permutation"])
def test_long_chunks_see_prefixes_and_ranks(mask, monkeypatch):
    """Keys that stand after a chunk of queries."""
    monkeypatch.setattr(attention, "LONG", 150)
    case = Case(150, mask=mask, segments=True)
    (q, k, v), (positions, segments), tokens = case.arrays(), case.coordinates(), jnp.arange(150)
    ranks = jnp.tile(tokens * 7 % 150, (2, 1)) if mask == "permutation" else None
    keys = dataclasses.replace(keys_of(k, v, positions, segments, True), prefix_BS=positions < 9, ranks_BS=ranks)
    ways = (attention.attend(q, positions, segments, keys, case.scores(), way, ranks) for way in ("chunked", "reference"))
    np.testing.assert_allclose(*ways, rtol=1e-5, atol=2e-5)


def test_chunks_skip_what_no_query_sees():
    """Of all T x T products, causal chunks compute about half and windows a band, whose area grows with the length alone."""

    def products(mask: str, implementation: str, time: int = 1024) -> float:
        case = Case(time, batch=1, heads=1, groups=1, mask=mask)
        jaxpr = jax.make_jaxpr(lambda *arrays: case.attend(*arrays, implementation))(*case.arrays())
        return sum(np.prod(shape) for shape in shapes(jaxpr) if shape[-1] != 8) / time**2

    def shapes(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation.outvars[0].aval.shape
            elif "jaxpr" in equation.params:
                yield from shapes(equation.params["jaxpr"])

    assert products("causal", "reference") == 1.0
    assert 0.5 <= products("causal", "chunked") < 0.55
    assert products("local(window=64)", "chunked") < 0.2
    assert products("full", "chunked") == 1.0
    for mask in ("local(window=64)", "around(sides=32)", "chunks(size=64)"):
        assert products(mask, "chunked") < 0.2
        assert 8192 * products(mask, "chunked", 8192) == 4096 * products(mask, "chunked", 4096) <= 3 * 64


@pytest.mark.parametrize("case", [Case(1024, alibi=True), Case(1024, mask="full", sinks=True)], ids=str)
def test_a_long_text_keeps_no_weights_for_the_backward_pass(case):
    def kept(implementation: str) -> int:
        pull = jax.eval_shape(lambda *arrays: jax.vjp(lambda *a: case.attend(*a, implementation), *arrays)[1], *case.arrays())
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    scores = 4 * case.batch * case.heads * case.time**2
    assert kept("reference") > 2 * scores and kept("chunked") < 0.1 * scores


def test_keys_that_are_not_aligned_are_not_skipped():
    """Keys of a cache stand in any order; the order must not matter."""
    case = Case(80, batch=1)
    q, k, v = case.arrays()
    positions, _ = case.coordinates()
    order = np.random.default_rng(0).permutation(80)
    keys = keys_of(k[:, order], v[:, order], positions[:, order], None, aligned=False)
    found = attention.attend(q, positions, None, keys, case.scores(), "chunked")
    np.testing.assert_allclose(found, case.attend(q, k, v, "reference"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_padding_is_not_seen_and_stays_finite(implementation):
    case = Case(70, batch=1)
    q, k, v = case.arrays()
    positions = jnp.concatenate([jnp.arange(60), jnp.full(10, -1)])[None]

    @jax.jit
    def attend(k, v):
        keys = keys_of(k, v, positions, None, aligned=True)
        return attention.attend(q, positions, None, keys, case.scores(), implementation)

    expected = attend(k, v)
    assert np.isfinite(expected).all()
    changed = attend(k.at[:, 60:].set(1e3), v.at[:, 60:].set(1e3))
    np.testing.assert_array_equal(changed[:, :60], expected[:, :60])
    gradient = jax.grad(lambda k: attend(k, v)[:, :60].sum())(k)
    assert np.isfinite(gradient).all() and not np.any(gradient[:, 60:])


def test_weights_of_bfloat16_models_come_from_float32_scores():
    """Scores of some hundreds are multiples of 2 in bfloat16, where neighbours differ by a factor of e^2."""
    case = Case(40, dtype="bfloat16", scale=64.0, mask="full")
    found = case.attend(*case.arrays(), "reference")
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), loops(case), atol=0.03)


def test_dropped_weights_are_dropped_before_the_values():
    case = Case(70, batch=1, mask="full")
    q, k, v = case.arrays()
    positions, _ = case.coordinates()
    keys = keys_of(k, v, positions, None, aligned=True)
    scores = dataclasses.replace(case.scores(), dropout=lambda weights: weights.at[..., 1::2].set(0.0) * 2)
    found = attention.attend(q, positions, None, keys, scores, "auto")
    halved = case.attend(q, k, v.at[:, 1::2].set(0.0), "reference") * 2
    np.testing.assert_allclose(found, halved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", ["permutation", "causal", "local(window=20)"])
@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_no_query_sees_keys_of_higher_rank(implementation, mask):
    """Whatever the mask; one that sees none gets zeros. Positions know nothing of ranks."""
    case = Case(150, mask=mask, segments=True, alibi=True, batch=1)
    q, k, v = case.arrays()
    positions, segments = case.coordinates()
    generator = np.random.default_rng(0)
    k_ranks, q_ranks = jnp.asarray(2 * generator.integers(0, 9, (1, 150))), jnp.asarray(generator.integers(-1, 19, (1, 150)))
    keys = dataclasses.replace(keys_of(k, v, positions, segments, aligned=True), ranks_BS=k_ranks)
    found = attention.attend(q, positions, segments, keys, case.scores(), implementation, q_ranks)
    t, s = positions[0, :, None], positions[0, None, :]
    allowed = case.scores().mask.allowed(t, s) & (segments[0, :, None] == segments[0]) & (k_ranks[0] <= q_ranks[0, :, None])
    assert 0 < np.count_nonzero(~allowed.any(1)) < 100
    slopes = np.asarray(alibi_slopes(case.heads))
    for h in range(case.heads):
        scores = q[0, :, h] @ k[0, :, h // 2].T * case.scale - slopes[h] * abs(t - s)
        weights = np.where(allowed, np.exp(np.where(allowed, scores, -np.inf)), 0.0)
        expected = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30) @ np.asarray(v[0, :, h // 2])
        np.testing.assert_allclose(found[0, :, h], expected, rtol=1e-4, atol=1e-5)


def test_a_prefix_is_seen_by_its_document_alone():
    """Du et al. 2021, arXiv:2103.10360, section 2.1: the context in both directions, what is generated from left to right."""
    case = Case(12, mask="prefix", segments=True, batch=1)
    q, k, v = case.arrays()
    positions, segments = jnp.asarray([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]]), jnp.asarray([[1] * 7 + [2] * 5])
    prefix = positions < jnp.where(segments == 1, 4, 2)
    keys = dataclasses.replace(keys_of(k, v, positions, segments, aligned=True), prefix_BS=prefix)
    found = attention.attend(q, positions, segments, keys, case.scores(), "auto")
    for t, h in np.ndindex(12, case.heads):
        seen = [s for s in range(12) if segments[0, s] == segments[0, t] and (s <= t or bool(prefix[0, s]))]
        logits = np.asarray([q[0, t, h] @ k[0, s, h // 2] for s in seen]) * case.scale
        weights = np.exp(logits - logits.max())
        expected = (weights / weights.sum()) @ np.asarray([v[0, s, h // 2] for s in seen])
        np.testing.assert_allclose(found[0, t, h], expected, rtol=1e-5, atol=1e-5)
