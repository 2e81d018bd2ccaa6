"""JAX's kernel for TPU, interpreted, against the reference; what it does not take; and that steps for TPU have it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ops.test_attention import Case, keys_of
from taxonomy import config as config_lib
from taxonomy import registry, sharding
from taxonomy.errors import UserError
from taxonomy.ops import attention, splash
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import abstract_batch, make_plan


def both(case: Case, mesh: str = "", way: str = "splash"):
    """Outputs and gradients by the arrays and the sinks: of the kernel on a mesh, and of the reference on one device."""
    positions, segments = case.coordinates()
    direction = np.random.default_rng(3).standard_normal((case.batch, case.time, case.heads, 8)).astype(np.float32)

    def run(implementation, *arrays):
        def attend(q, k, v, sinks):
            scores = dataclasses.replace(case.scores(), sinks_H=sinks if case.sinks else None)
            keys = keys_of(k, v, positions, segments, aligned=True)
            return attention.attend(q, positions, segments, keys, scores, implementation)

        y, pull = jax.vjp(attend, *arrays)
        return y, *pull(jnp.asarray(direction))

    arrays = *case.arrays(), jnp.linspace(-1.0, 3.0, case.heads)
    expected = jax.jit(run, static_argnums=0)("reference", *arrays)
    if not mesh:
        return jax.jit(run, static_argnums=0)("splash", *arrays), expected
    with jax.set_mesh(sharding.make_mesh(mesh, jax.devices()[: sharding.devices_of(mesh)])):
        return jax.jit(run, static_argnums=0)(way, *arrays), expected


@pytest.mark.parametrize(
    ("case", "mesh"),
    [
        # Three blocks of 128, of which the first query block sees one and the last two.
        (Case(384, batch=1, mask="local(window=140)", segments=True, softcap=2.0, sinks=True), ""),
        (Case(256, batch=1, heads=2, groups=1, mask="chunks(size=100)", segments=True), ""),
        # Two key-value heads on four devices: each reads one of them.
        (Case(128, heads=8, groups=2, segments=True, sinks=True), "data:2,tensor:4"),
        # Three queries read a key-value head and every device has two: some devices read two of them.
        (Case(128, heads=6, groups=2, mask="around(sides=20)"), "tensor:3"),
    ],
    ids=str,
)
def test_the_kernel_gives_the_reference_and_its_gradients(case, mesh):
    assert_equal(case, *both(case, mesh))


def assert_equal(case: Case, found, expected):
    for name, one, other in zip(("output", "queries", "keys", "values", "sinks"), found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=3e-5, err_msg=name)
        assert np.any(other) or (name == "sinks" and not case.sinks)


@pytest.mark.parametrize("mesh", ["sequence:4", "data:2,sequence:2,tensor:2"])
def test_an_exchange_of_heads_attends_by_the_kernel(mesh, monkeypatch):
    """As on TPU, where every device has some heads of all of the sequence."""
    made, calls = splash._kernel, []
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    monkeypatch.setattr(splash, "_kernel", lambda *size: calls.append(size) or made(*size[:-1], True))
    case = Case(256, mask="local(window=140)", segments=True, sinks=True)
    assert_equal(case, *both(case, mesh, "all_to_all"))
    assert {(time, heads) for _, _, time, heads, *_ in calls} == {(256, 1)}


def test_padding_is_not_seen():
    case = Case(128, batch=1)
    q, k, v = case.arrays()
    positions = jnp.where(jnp.arange(128) < 100, jnp.arange(128), -1)[None]
    found, expected = (
        attention.attend(q, positions, None, keys_of(k, v, positions, None, True), case.scores(), implementation)
        for implementation in ("splash", "reference")
    )
    np.testing.assert_allclose(found[:, :100], expected[:, :100], rtol=1e-5, atol=3e-5)
    assert np.isfinite(found).all()


MASKS = {
    "full": True,
    "causal": True,
    "prefix": False,
    "permutation": True,
    "local(window=5)": True,
    "chunks(size=5)": True,
    "around(sides=5)": True,
    "strided(stride=5)": False,
    "strided(stride=5, part='local')": True,
    "fixed(stride=5, summary=2)": False,
    "fixed(stride=5, summary=2, part='block')": True,
    "dilated(segments=(4, 8), rates=(1, 2), heads=2)": False,
}


def refused(time=256, mask="causal", aligned=True, ranks=None, prefix=None, **scores) -> str | None:
    q, k, positions = jnp.zeros((1, time, 2, 8)), jnp.zeros((1, 2, time, 8)), jnp.zeros((1, time), int)
    keys = attention.Keys(k, k, positions, None, aligned, prefix)
    return splash.refused(q, keys, attention.Scores(registry.create("mask", mask, "mask"), 1.0, **scores), ranks)


def test_what_the_kernel_takes():
    kinds = {registry.create("mask", mask, "mask") for mask in MASKS}
    assert {type(mask) for mask in kinds} == {entry.factory for entry in registry.entries("mask")}
    assert {mask: refused(mask=mask) is None for mask in MASKS} == MASKS
    ones = jnp.ones((1, 256), bool)
    assert refused(softcap=3.0, sinks_H=jnp.zeros(2)) is None and refused(mask="around(sides=5)", prefix=None) is None
    for reason, given in {
        "a mask of the kind strided": {"mask": "strided(stride=5)"},
        "keys of a cache": {"aligned": False},
        "a bias": {"bias": lambda *_: 0.0},
        "dropout": {"dropout": lambda weights: weights},
        "denominators": {"totals": True},
        "an order": {"ranks": ones},
        "tokens that all see": {"mask": "around(sides=5)", "prefix": ones},
        "200 tokens": {"time": 200},
    }.items():
        assert reason in refused(**given)
    with pytest.raises(UserError, match="splash does not take 200 tokens, which is no multiple of 128; auto computes that"):
        Case(200).attend(*Case(200).arrays(), "splash")


@pytest.mark.parametrize("name", [mask for mask, band in MASKS.items() if band])
def test_a_band_is_what_it_says(name):
    mask = registry.create("mask", name, "mask")
    q, k = np.arange(40)[:, None], np.arange(40)
    expected = (q - k < (mask.window or 99)) & (k - q <= (99 if mask.ahead is None else mask.ahead))
    if mask.within:
        expected &= q // mask.within == k // mask.within
    np.testing.assert_array_equal(mask.allowed(q, k), expected)


def test_blocks_are_those_of_the_mask():
    """What is said of a block at once is what JAX's own mask says of each of its elements."""
    for sides in ((100, 0), (None, 0), (30, 30), (0, None)):
        own, other = (kind((512, 512), sides, 0) for kind in (splash._Band, splash.masks.LocalMask))
        for i, j in np.ndindex(4, 4):
            block = slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1))
            np.testing.assert_array_equal(np.broadcast_to(own[block], (128, 128)), other[block])


def step(platform: str | None, **overrides):
    """A traced step of a small model on a mesh of four devices that are not there."""
    size = {"mesh": "fsdp:2,tensor:2", "model.context": 128, "train.batch_tokens": 512, **overrides}
    plan = make_plan(config_lib.load_config("llama:tiny", size), 4)
    trainer = make_trainer(plan, sharding.abstract_mesh(plan.config.mesh, 4, platform))
    return trainer, trainer.trace(abstract_batch(plan, plan.batches.full))


@pytest.mark.parametrize("mesh", ["fsdp:2,tensor:2", "fsdp:2,sequence:2", "stage:2,fsdp:2"])
def test_a_step_for_tpu_has_the_kernel(mesh):
    trainer, traced = step("TPU v4", mesh=mesh)
    with trainer.scope():
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # Forward, and backward for queries and for keys and values.
    assert text.count("tpu_custom_call") == 3


def test_other_steps_have_no_kernel():
    for other in (
        step("NVIDIA H100"),
        step("TPU v4", **{"model.position": "alibi"}),
        step("TPU v4", **{"train.attention": "chunked"}),
    ):
        assert "pallas_call" not in str(other[1].jaxpr)
