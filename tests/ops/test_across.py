"""Attention where devices have parts of the sequence: every way against the reference on one device."""

import contextlib
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ops.test_attention import Case, keys_of
from taxonomy import registry, sharding
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.ops import across, attention
from taxonomy.ops.attention import Bias

SEQUENCE, BOTH = "sequence:4", "sequence:2,tensor:2"
TIME = 32


@contextlib.contextmanager
def on(text: str):
    with jax.set_mesh(sharding.make_mesh(text, jax.devices()[:4])), nn.logical_axis_rules(sharding.flax_rules()):
        yield


BIASES = {
    "alibi": ("alibi", ()),
    "t5": ("t5_bias(buckets=8, max_distance=12, initializer=normal(std=1))", ("table",)),
    "xl": ("transformer_xl(initializer=normal(std=1))", ("kernel", "content_bias", "position_bias")),
    "parts": (
        "transformer_xl(parts=True, initializer=normal(std=1))",
        ("kernel", "content_bias", "position_bias", "part_bias", "parts"),
    ),
}


def relative(name: str, arrays: tuple[jax.Array, ...]) -> Bias:
    """The bias of a position component with these numbers."""
    sentence, names = BIASES[name]
    module = registry.create("position", sentence, "position", d_model=6)
    if name == "alibi":
        return module.bias(4).replace(arrays=arrays)
    params, q = dict(zip(names, arrays, strict=True)), jnp.zeros((2, TIME, 4, 8))
    types = jnp.asarray(np.random.default_rng(9).integers(0, 2, (2, TIME)))
    context = Context(jnp.zeros((2, TIME), jnp.int32), types_BT=types)
    return module.apply({"params": params}, q, q, context, 0.5, method="attend")[2]


XL = (6, 4, 8), (4, 8), (4, 8)
SHAPES = {"alibi": ((4,),), "t5": ((8, 4),), "xl": XL, "parts": (*XL, (4, 8), (2, 4, 8)), None: ()}


@dataclasses.dataclass
class Parted(Case):
    """A case with a bias that is learned, a prefix, or ranks."""

    time: int = TIME
    bias: str | None = None
    prefix: bool = False
    ranks: bool = False

    def learned(self) -> tuple[jax.Array, ...]:
        """Queries, keys, values, numbers of the bias, and sinks."""
        generator = np.random.default_rng(5)
        arrays = tuple(jnp.asarray(generator.standard_normal(shape), jnp.float32) for shape in SHAPES[self.bias])
        return *self.arrays(), arrays, jnp.linspace(-1.0, 3.0, self.heads) if self.sinks else None

    def attend(self, q, k, v, arrays, sinks, implementation):
        positions, segments = self.coordinates()
        keys = keys_of(k, v, positions, segments, aligned=True)
        scores = dataclasses.replace(self.scores(), sinks_H=sinks, bias=relative(self.bias, arrays) if self.bias else None)
        ranks = None
        if self.prefix:
            keys = dataclasses.replace(keys, prefix_BS=positions < 3)
        if self.ranks:
            order = jnp.asarray(np.random.default_rng(7).integers(0, 9, positions.shape))
            keys, ranks = dataclasses.replace(keys, ranks_BS=2 * order), 2 * order - 1
        return attention.attend(q, positions, segments, keys, scores, implementation, ranks)


EVERY = [
    Parted(segments=True, sinks=True, softcap=2.0),
    Parted(mask="full", bias="t5", segments=True, groups=4),
    Parted(bias="xl", segments=True, groups=1),
    Parted(mask="prefix", segments=True, prefix=True, bias="alibi"),
    Parted(mask="permutation", ranks=True, segments=True),
]
SHORT = [
    Parted(mask="local(window=6)", segments=True),
    Parted(mask="around(sides=3)", bias="alibi", groups=4),
    Parted(mask="chunks(size=5)"),
]
CASES = [
    *((SEQUENCE, "ring", case) for case in EVERY + SHORT),
    *((BOTH, way, case) for way in ("ring", "all_to_all") for case in EVERY),
    (SEQUENCE, "all_to_all", EVERY[0]),
    (BOTH, "all_to_all", Parted(mask="full", bias="parts", segments=True)),
    (BOTH, "gathered", EVERY[0]),
    (SEQUENCE, "gathered", EVERY[2]),
    (BOTH, "auto", Parted(mask="dilated(segments=(8, 16), rates=(1, 2), heads=4)", segments=True)),
]


@functools.cache
def direction(shape) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def both(case: Parted, implementation: str):
    """Output and gradients, as a function of what is learned."""

    def run(*learned):
        y, pull = jax.vjp(lambda *learned: case.attend(*learned, implementation), *learned)
        return y, pull(jnp.asarray(direction(y.shape)))

    return run


EXPECTED: dict[str, Any] = {}


@pytest.mark.parametrize(("mesh", "way", "case"), CASES, ids=str)
def test_every_way_gives_the_reference_and_its_gradients(mesh, way, case):
    learned = case.learned()
    if str(case) not in EXPECTED:
        EXPECTED[str(case)] = jax.jit(both(case, "reference"))(*learned)
    with on(mesh):
        found = jax.jit(both(case, way))(*learned)
    expected = EXPECTED[str(case)]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5), found, expected)


@pytest.mark.parametrize("way", ["ring", "all_to_all", "gathered"])
def test_keys_of_another_length_that_stand_anywhere(way):
    """As an encoder's: nothing aligned, more keys than queries, some of them padding, and documents on both sides."""
    generator = np.random.default_rng(1)
    q, k, v = (jnp.asarray(generator.standard_normal((2, n, 4, 8)), jnp.float32) for n in (16, 24, 24))
    segments, of_keys = jnp.asarray([[1] * 9 + [2] * 7] * 2), jnp.asarray([[1] * 5 + [2] * 15 + [0] * 4] * 2)
    places = jnp.broadcast_to(jnp.arange(24), (2, 24))
    scores = dataclasses.replace(Case(16, mask="full").scores())

    def attend(implementation, q, k, v):
        keys = keys_of(k, v, places, of_keys, aligned=False)
        return jnp.sum(jnp.sin(attention.attend(q, places[:, :16], segments, keys, scores, implementation)))

    gradients = lambda way: jax.jit(jax.value_and_grad(functools.partial(attend, way), (0, 1, 2)))  # noqa: E731
    expected = gradients("reference")(q, k, v)
    with on(SEQUENCE):
        found = gradients(way)(q, k, v)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), found, expected)


def moved(case: Parted, way: str, mesh: str = SEQUENCE) -> str:
    """The program of attention and its gradients, with all arrays where they are to stand."""
    place = PartitionSpec(None, "sequence", "tensor" if "tensor" in mesh else None)
    with on(mesh):
        learned = jax.tree.map(lambda a: jax.device_put(a, place) if a.ndim == 4 else a, case.learned())
        return jax.jit(both(case, way)).lower(*learned).compile().as_text()


def test_no_device_has_all_keys():
    """A ring sends parts of keys, an exchange parts of heads; what gathers keys is seen to do so."""
    case = Parted(groups=4)
    programs = {way: moved(case, way) for way in ("ring", "all_to_all", "gathered")}
    kinds = ("collective-permute", "all-to-all", "all-gather")
    found = {way: {kind for kind in kinds if f" {kind}(" in text or f" {kind}-start(" in text} for way, text in programs.items()}
    assert found["ring"] == {"collective-permute"} and found["all_to_all"] == {"all-to-all"}
    assert "all-gather" in found["gathered"]


def stops(mask: str, mesh: str, **options) -> int | None:
    """Of how many devices one sees keys in the ring that auto takes; None when it takes another way."""
    taken = []
    with on(mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(across, "_in_ring", lambda parts, queries, keys, scores, ring: taken.append(ring.stops) or queries.q_BTHK)
        case = Parted(mask=mask, **options)
        jax.eval_shape(lambda *learned: case.attend(*learned, "auto"), *case.learned())
    return taken[0] if taken else None


def test_auto_goes_no_further_than_a_window():
    # Parts of 8 tokens: a window of 9 reaches one part back, one of 10 two.
    assert stops("local(window=9)", SEQUENCE, groups=1) == 2
    assert stops("local(window=10)", SEQUENCE, groups=1) == 3
    assert stops("around(sides=8)", SEQUENCE, groups=1) == 3
    # Most of what a ring would compute is masked where parts are longer than the window.
    assert stops("local(window=7)", SEQUENCE, groups=1) is None
    assert stops("local(window=7)", SEQUENCE, heads=6, groups=2) == 2
    # Keys of every head would be sent twice; exchanged, all that a device has is sent but once, and a share of it stays.
    assert stops("local(window=17)", SEQUENCE, groups=4) is None
    # All there is to see: heads are exchanged where they divide, else keys go around.
    assert stops("causal", SEQUENCE) is None
    assert stops("causal", SEQUENCE, heads=6, groups=2) == 4


def test_auto_exchanges_for_the_kernel_on_tpu(monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    assert stops("local(window=9)", SEQUENCE, groups=1) is None
    assert stops("local(window=9)", SEQUENCE, heads=6, groups=2) == 2


def test_what_is_impossible_is_told():
    with on(BOTH), pytest.raises(UserError) as e:
        case = Parted(heads=6, groups=3)
        case.attend(*case.learned(), "all_to_all")
    assert str(e.value) == (
        "attention: 'all_to_all' is impossible here: 6 heads do not divide over 4 devices; allowed: auto, ring, gathered"
    )
    parts = Parted(mask="full", bias="parts", heads=4)
    with on(SEQUENCE), pytest.raises(UserError, match="'ring' is impossible here: what positions add depends on tokens"):
        parts.attend(*parts.learned(), "ring")
    dilated = Parted(mask="dilated(segments=(8, 16), rates=(1, 2), heads=4)")
    with (
        on(SEQUENCE),
        pytest.raises(UserError, match="'ring' is impossible here: the mask differs by head; allowed: auto, gathered"),
    ):
        dilated.attend(*dilated.learned(), "ring")


def test_a_device_alone_has_nobody_to_exchange_with():
    case = Parted(segments=True)
    expected = case.attend(*case.learned(), "auto")
    np.testing.assert_array_equal(case.attend(*case.learned(), "ring"), expected)
