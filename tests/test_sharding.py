"""Meshes and partitions, and that a step on many devices is the step on one."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from training.common import RATE, SMOOTH, assert_trees_close, start, trainer_of, uneven_batch

from taxonomy import config as config_lib
from taxonomy import sharding, spec
from taxonomy.errors import UserError
from taxonomy.layers.params import Declared
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import make_plan

CUBE = "data:2,fsdp:2,tensor:2"
STEPS = 3
ODD = {"model.vocab": 61, "model.d_model": 18, "model.decoder": "block"}


@pytest.mark.parametrize(
    ("text", "devices", "sizes"),
    [
        ("", 1, {}),
        ("data:-1", 8, {"data": 8}),
        ("data:-1", 1, {}),
        ("fsdp:4,tensor:2", 8, {"fsdp": 4, "tensor": 2}),
        ("tensor:2, data:-1", 8, {"data": 4, "tensor": 2}),
        ("replica:2,sequence:2,expert:2", 8, {"replica": 2, "sequence": 2, "expert": 2}),
        ("data:-1,fsdp:8", 8, {"fsdp": 8}),
    ],
)
def test_a_mesh_is_read(text, devices, sizes):
    expected = {name: sizes.get(name, 1) for name in sharding.MESH_AXES}
    assert sharding.parse_mesh(text, devices) == expected
    mesh = sharding.make_mesh(text, jax.devices()[:devices])
    assert dict(mesh.shape) == expected and mesh.devices.size == devices
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dtaa:8", "unknown axis 'dtaa' in 'dtaa:8'; did you mean 'data'?"),
        ("data:2,data:4", "axis 'data' is given twice"),
        ("data", "axis 'data' needs a size, as in 'data:4'"),
        ("data:two", "axis 'data' needs a size, as in 'data:4', got 'data:two'"),
        ("data:2.5", "axis 'data' needs a size"),
        ("fsdp:0", "axis 'fsdp' has size 0"),
        ("fsdp:-2", "axis 'fsdp' has size -2; allowed are 1, 2, ... or -1"),
        ("fsdp:-1,data:-1", "only one axis may be -1, got fsdp, data"),
        ("tensor:3,data:-1", "'tensor:3,data:-1' asks for a multiple of 3 devices, 8 are there"),
        ("tensor:4", "'tensor:4' asks for 4 devices, 8 are there"),
        ("tensor:4,data:4", "'tensor:4,data:4' asks for 16 devices, 8 are there"),
        ("", "'' asks for 1 devices, 8 are there"),
    ],
)
def test_a_mistaken_mesh_is_told_in_a_line(text, said):
    with pytest.raises(UserError) as e:
        sharding.make_mesh(text, jax.devices())
    assert str(e.value).startswith("config.mesh: ") and said in str(e.value) and "\n" not in str(e.value)


@functools.cache
def cube():
    return sharding.make_mesh(CUBE, jax.devices())


@pytest.mark.parametrize(
    ("axes", "shape", "places"),
    [
        (("vocab", "embed"), (512, 64), ("tensor", "fsdp")),
        (("layers", "embed", "heads", "head_dim"), (2, 64, 4, 16), (None, "fsdp", "tensor", None)),
        (("layers", "layers", "embed", "mlp"), (2, 3, 64, 160), (None, None, "fsdp", "tensor")),
        (("batch", "time", "features"), (8, 32, 64), (("data", "fsdp"), None, None)),
        ((None, "embed"), (64, 64), (None, "fsdp")),
        # What a mesh axis does not divide stays whole: one key-value head, an odd vocabulary, a batch of two.
        (("embed", "kv_heads", "head_dim"), (64, 1, 16), ("fsdp", None, None)),
        (("vocab", "embed"), (513, 64), (None, "fsdp")),
        (("batch", "time"), (2, 32), (None, None)),
        # Two dimensions may want an axis when only one can have it.
        (("mlp", "heads"), (161, 4), (None, "tensor")),
        ((), (), ()),
    ],
)
def test_a_partition_follows_the_rules(axes, shape, places):
    assert sharding.partition(axes, shape, cube()) == PartitionSpec(*places)


@pytest.mark.parametrize(("outer", "place"), [(4, "stage"), (3, None)])
def test_outer_layers_stand_in_stages(outer, place):
    mesh = sharding.make_mesh("stage:2,fsdp:4", jax.devices())
    assert sharding.partition(("layers", "layers", "embed"), (outer, 4, 64), mesh) == PartitionSpec(place, None, "fsdp")
    assert sharding.partition(("batch", "time"), (8, 4), mesh) == PartitionSpec(("stage", "fsdp"), None)
    with jax.set_mesh(mesh), sharding.in_stage():
        assert sharding.place("batch", 8) == ("fsdp",) and sharding.stages() == 1


def test_heads_are_divided_or_whole():
    mesh = sharding.abstract_mesh("tensor:12", 12)
    for heads, groups, places in ((48, 1, ("tensor", None)), (48, 12, ("tensor", "tensor")), (40, 8, (None, None))):
        found = [
            sharding.partition(("embed", axis, "head_dim"), (64, n, 8), mesh)[1]
            for axis, n in (("heads", heads), ("kv_heads", groups))
        ]
        assert tuple(found) == places


def test_a_mesh_axis_of_size_one_takes_nothing():
    mesh = sharding.make_mesh("fsdp:8", jax.devices())
    assert sharding.partition(("vocab", "embed"), (512, 64), mesh) == PartitionSpec(None, "fsdp")
    # So a collision on it is none.
    assert sharding.partition(("mlp", "heads"), (160, 4), mesh) == PartitionSpec(None, None)


def test_a_collision_names_both_axes():
    with pytest.raises(UserError) as e:
        sharding.partition(("mlp", "embed", "heads"), (160, 64, 4), cube(), "['decoder']['odd']")
    message = "sharding: axes 'mlp' and 'heads' of ['decoder']['odd'] both map to mesh axis 'tensor'"
    assert str(e.value) == message
    declared = {"odd": Declared(jax.ShapeDtypeStruct((4, 4), "float32"), ("embed", "embed"))}
    with pytest.raises(UserError, match=r"axes 'embed' and 'embed' of \['odd'\] both map to mesh axis 'fsdp'"):
        sharding.parameter_shardings(declared, cube())


@dataclasses.dataclass(frozen=True)
class Device:
    """What is asked of a device that is not there."""

    id: int
    slice_index: int = 0
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"
    coords: tuple[int, ...] = ()
    core_on_chip: int = 0


@pytest.mark.parametrize(
    ("text", "slices", "across"),
    [
        ("replica:2,fsdp:4,tensor:2", 2, {"replica": 2}),
        ("data:2,tensor:8", 2, {"data": 2}),
        ("data:-1", 4, {"data": 4}),
        ("replica:2,data:4,tensor:2", 4, {"replica": 2, "data": 2}),
        ("stage:2,data:4,tensor:2", 4, {"stage": 2, "data": 2}),
        ("fsdp:4,tensor:4", 2, {"fsdp": 2}),
        ("expert:16", 8, {"expert": 8}),
    ],
)
def test_slices_are_taken_by_the_axes_that_send_little(text, slices, across):
    sizes = sharding.parse_mesh(text, 16)
    grid = sharding.over_slices(sizes, [Device(i, slice_index=i % slices) for i in range(16)])
    assert grid.shape == tuple(sizes.values()) and len({device.id for device in grid.flat}) == 16
    slice_of = np.vectorize(lambda device: device.slice_index)(grid)
    for axis, size in enumerate(sizes.values()):
        outer = across.get(sharding.MESH_AXES[axis], 1)
        # The slices along an axis, and inside one of its parts that are in one slice.
        parts = np.split(slice_of, outer, axis)
        assert all((part == part.take([0], axis)).all() for part in parts), (axis, size)
        assert outer == 1 or (parts[0].take([0], axis) != parts[1].take([0], axis)).all()


@pytest.mark.parametrize("text", ["fsdp:16,tensor:4", "fsdp:8,tensor:8", "stage:2,fsdp:8,tensor:4", "fsdp:32,tensor:2"])
def test_axes_of_a_mesh_lie_along_the_torus(text):
    """Whole axes of a slice of 4x4x4 or parts of them: who shares an axis of the mesh is a box of neighbours."""
    devices = [Device(i, platform="tpu", device_kind="TPU v4", coords=at) for i, at in enumerate(np.ndindex(4, 4, 4))]
    mesh = sharding.make_mesh(text, devices)
    assert len({device.id for device in mesh.devices.flat}) == 64
    for axis, size in enumerate(mesh.devices.shape):
        for group in np.moveaxis(mesh.devices, axis, -1).reshape(-1, size):
            coords = np.array([device.coords for device in group])
            assert np.prod([len(set(along)) for along in coords.T]) == size


def test_a_mesh_that_does_not_divide_over_slices_is_told_in_a_line():
    devices = [Device(i, slice_index=i // 4) for i in range(8)]
    with pytest.raises(UserError, match=r"config.mesh: 'tensor:8' does not divide over 2 slices; .* as with replica:2"):
        sharding.make_mesh("tensor:8", devices)


@pytest.mark.parametrize(
    ("text", "process_of", "rows"),
    [
        ("fsdp:8", (0, 0, 0, 0, 1, 1, 1, 1), [0, 1, 2, 3, 4, 5, 6, 7]),
        ("fsdp:4,tensor:2", (0, 0, 1, 1, 0, 0, 1, 1), [0, 1, 2, 3, 8, 9, 10, 11]),
        ("tensor:8", (0, 0, 0, 0, 1, 1, 1, 1), list(range(16))),
        ("fsdp:4,tensor:2", (0, 1, 0, 1, 0, 1, 0, 1), list(range(16))),
        # Rows that overlap and are not the same: every process reads all.
        ("fsdp:4,tensor:2", (0, 0, 0, 1, 1, 1, 1, 0), list(range(16))),
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(text, process_of, rows):
    devices = [Device(i, process_index=process) for i, process in enumerate(process_of)]
    sizes = sharding.parse_mesh(text, 8)
    mesh = Mesh(np.array(devices).reshape(tuple(sizes.values())), sharding.MESH_AXES)
    assert list(sharding.own_rows(mesh, 16)) == rows


def test_batches_stand_over_all_batch_axes():
    for text, divisor in ((CUBE, 4), ("replica:2,data:2,fsdp:2", 8), ("tensor:8", 1), ("sequence:2,data:4", 4)):
        mesh = sharding.make_mesh(text, jax.devices())
        assert sharding.batch_divisor(mesh) == divisor
        assert sharding.batch_sharding(mesh).shard_shape((16, 4)) == (16 // divisor, 4)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"mesh": "data:8", "train.batch_tokens": 64 * 12},
            "config.train.batch_tokens: 12 sequences of 64 do not divide over 8 batch",
        ),
        ({"mesh": "data:8", "train.microbatch_tokens": 64 * 4}, "config.train.microbatch_tokens: 256 must be a multiple of 64 x 8"),
    ],
)
def test_a_batch_that_does_not_divide_over_the_mesh_is_refused(overrides, said):
    with pytest.raises(UserError) as e:
        make_plan(config_lib.load_config("llama:tiny", overrides), 8)
    assert str(e.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "mesh", "said"),
    [
        (
            "llama:tiny",
            "sequence:6",
            "axis 'sequence' has 6 devices, which do not divide model.context=64 (allowed up to it: 1, 2, 4)",
        ),
        (
            "t5:tiny",
            "sequence:5",
            "axis 'sequence' has 5 devices, which do not divide model.context=32 (allowed up to it: 1, 2, 4)",
        ),
    ],
)
def test_a_sequence_that_does_not_divide_is_refused(name, mesh, said):
    with pytest.raises(UserError) as e:
        make_plan(config_lib.load_config(name, {"mesh": mesh}), sharding.devices_of(mesh))
    assert str(e.value) == f"config.mesh: {said}"


def test_an_axis_that_divides_nothing_is_refused():
    plan = make_plan(config_lib.load_config("llama:tiny", {"mesh": "tensor:7"}), 7)
    with pytest.raises(UserError) as e:
        make_trainer(plan, sharding.abstract_mesh("tensor:7", 7))
    said = "axis 'tensor' has 7 devices, which must divide any of heads=4, kv_heads=2, mlp=160, vocab=512"
    assert str(e.value) == f"config.mesh: {said}"


def meshes(tiny) -> list[tuple[str, int]]:
    """Meshes and how many devices they take; heads go over as many as they divide among."""
    heads = [part["heads"] for part in tiny.spec.components() if part.get("heads")]
    tensor = next(n for n in (4, 2, 1) if all(h % n == 0 for h in heads))
    return [("data:8", 8), ("fsdp:8", 8), (f"tensor:{tensor}", tensor)]


def is_shape(node) -> bool:
    return isinstance(node, tuple)


def run(trainer, params, batch, parts=1):
    state, losses = start(trainer, params), []
    for _ in range(STEPS):
        state, metrics = trainer.step(state, trainer.put(batch), RATE, parts)
        losses.append([float(metrics[key]) for key in ("loss", "grad_norm", "accuracy")])
    return state, losses


@functools.cache
def on_one_device(one_of, packed, family):
    one = one_of(family)
    return run(trainer_of(one.spec, SMOOTH, 1.0), one.params, uneven_batch(packed, one.spec.vocab))


def expected_shard(declared, mesh) -> tuple[int, ...]:
    """The shape of a parameter's part on one device, from its axes and the table alone."""
    parts = [math.prod(mesh.shape[a] for a in sharding.RULES[name]) if name else 1 for name in declared.names]
    return tuple(size // n if size % n == 0 else size for size, n in zip(declared.value.shape, parts, strict=True))


def test_factored_moments_stand_with_what_they_are_moments_of():
    """A moment of rows or of columns is divided over experts, and along what it keeps of its kernel's other dimensions."""
    mlp = "moe(experts=4, top_k=2, router=softmax, expert=relu(d_ff=256))"
    size = {"model.d_model": 128, "model.decoder": "3*block", "model.mlp": mlp}
    model = spec.model(config_lib.load_config("gpt2:tiny", size).model.to_dict())
    trainer = trainer_of(model, "adafactor", mesh="fsdp:2,expert:2,tensor:2", devices=8)
    params, moments = trainer.shardings.params, trainer.shardings.opt_state[0]
    trees = (params, moments.v_row, moments.v_col)
    up, rows, columns = (tree["decoder"]["0_repeat"]["0_block"]["mlp"]["experts"]["up"].spec for tree in trees)
    assert up == PartitionSpec(None, "expert", "fsdp", "tensor")
    # Of 3 x 4 x 128 x 256.
    assert (rows, columns) == (PartitionSpec(None, "expert", "fsdp"), PartitionSpec(None, "expert", "tensor"))


@pytest.mark.slow_by_family
def test_many_devices_and_microbatches_are_one_step(family, tiny, packed):
    """On a mesh of all three axes, in two parts."""
    assert_one_step(tiny, packed, family, CUBE, 8, 2)


@pytest.mark.parametrize("family", ["gpt3", "palm", "llama"])
@pytest.mark.parametrize("number", range(3), ids=["data", "fsdp", "tensor"])
def test_many_devices_are_one_device(family, tiny, packed, number):
    assert_one_step(tiny, packed, family, *meshes(tiny(family))[number], 1)


@pytest.mark.parametrize(("family", "text", "stream"), [("llama", CUBE, "features"), ("palm", "sequence:2,tensor:4", "time")])
def test_a_stream_that_is_divided_is_one_device(family, text, stream, tiny, packed):
    assert_one_step(tiny, packed, family, text, 8, 1, stream)
    one = tiny(family)
    batch = uneven_batch(packed, one.spec.vocab)
    lowered = trainer_of(one.spec, SMOOTH, 1.0, mesh=text, devices=8, stream=stream).lower(batch).as_text()
    places = {"features": '{"sequence"}, {"tensor"}', "time": '{"sequence", "tensor"}, {}'}
    rows, time = batch["tokens"].shape
    found = re.findall(rf"sdy.sharding_constraint .*?\[{{.*?}}, (.*?)\].*tensor<{rows}x{time}x{one.spec.d_model}xf32>", lowered)
    assert found.count(places[stream]) >= 2 * len(set(one.spec.decoder))


def test_a_stream_that_does_not_divide_is_refused():
    for stream, said in (
        ("features", "divides 72 over 16"),
        ("time", "divides 40 over 16"),
        ("feature", "did you mean 'features'"),
    ):
        size = {"model.d_model": 72, "model.context": 40, "train.batch_tokens": 80, "mesh": "tensor:16", "train.stream": stream}
        with pytest.raises(UserError, match=said):
            make_plan(config_lib.load_config("llama:tiny", size), 16)


def assert_one_step(one_of, packed, family, text, devices, parts, stream="whole"):
    one = one_of(family)
    batch = uneven_batch(packed, one.spec.vocab)
    expected, expected_losses = on_one_device(one_of, packed, family)
    trainer = trainer_of(one.spec, SMOOTH, 1.0, mesh=text, devices=devices, stream=stream)
    state, losses = run(trainer, one.params, batch, parts)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert_trees_close(state.params, expected.params, rtol=1e-5)

    # Not by holding everything everywhere: parameters and moments are where the table puts them.
    adam = state.opt_state[0]
    is_declared = {"is_leaf": lambda x: isinstance(x, Declared)}
    shards = jax.tree.map(lambda d: expected_shard(d, trainer.mesh), trainer.declared, **is_declared)
    for tree in (state.params, adam.mu, adam.nu):
        found = jax.tree.map(lambda a: a.addressable_shards[0].data.shape, tree)
        assert found == shards
    whole = [np.prod(s) == a.size for s, a in zip(jax.tree.leaves(shards, is_leaf=is_shape), jax.tree.leaves(adam.mu), strict=True)]
    assert all(whole) == (text == "data:8")


def test_what_does_not_divide_is_computed_all_the_same(random_params, packed):
    """Three heads, an odd vocabulary and an odd width over two devices; also the mesh axes that the others leave out."""
    attention, mlp = "gqa(heads=3, kv_heads=1, head_dim=8)", "swiglu(d_ff=27)"
    model = spec.model(config_lib.load_config("llama:tiny", ODD | {"model.attention": attention, "model.mlp": mlp}).model.to_dict())
    alone, many = (
        trainer_of(model, SMOOTH, 1.0, mesh=mesh, devices=n) for mesh, n in (("data:1", 1), ("replica:2,sequence:2,tensor:2", 8))
    )
    batch = uneven_batch(packed, model.vocab)
    params = random_params(alone.model, batch["tokens"])
    (expected, expected_losses), (found, losses) = (run(trainer, params, batch) for trainer in (alone, many))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert_trees_close(found.params, expected.params, rtol=1e-5)


def test_accumulation_on_many_devices(tiny, packed):
    one = tiny("llama")
    batch = uneven_batch(packed, one.spec.vocab)
    alone, many = trainer_of(one.spec, SMOOTH, 1.0), trainer_of(one.spec, SMOOTH, 1.0, mesh="data:2,tensor:4", devices=8)
    (expected, _), (found, _) = (t.step(start(t, one.params), t.put(batch), RATE, 4) for t in (alone, many))
    assert_trees_close(found.params, expected.params, rtol=1e-5)


def test_a_state_is_born_on_the_mesh_as_on_one_device(tiny):
    one = tiny("palm")
    alone, cubed = (trainer_of(one.spec, SMOOTH, 1.0, mesh=text, devices=n).init(5) for text, n in (("data:1", 1), (CUBE, 8)))
    assert_trees_close(cubed.params, alone.params, rtol=1e-6)
    place = trainer_of(one.spec, SMOOTH, 1.0, mesh=CUBE, devices=8).shardings
    jax.tree.map(lambda a, s: np.testing.assert_equal(a.sharding.is_equivalent_to(s, a.ndim), True), cubed, place)


@pytest.mark.slow_by_family
def test_the_stream_is_constrained_between_blocks(family, tiny, packed):
    """Flax drops logical constraints without a word under a mesh it does not see; so they are counted in the lowered step."""
    one = tiny(family)
    batch = uneven_batch(packed, one.spec.vocab)
    trainer = trainer_of(one.spec, SMOOTH, 1.0, mesh=CUBE, devices=8)
    text = trainer.lower(batch).as_text()
    rows, time = batch["tokens"].shape
    stream = re.findall(rf"sdy.sharding_constraint .*\[{{(.*?)}}.*\].*tensor<{rows}x{time}x{one.spec.d_model}xf32>", text)
    axes = ", ".join(f'"{axis}"' for axis in sharding.RULES["batch"])
    assert len(stream) >= 2 * len(set(one.spec.decoder)) and set(stream) == {axes}
    # The table is gathered whole along its features, and its gradient is brought back to where the table lives.
    table = rf"sdy.sharding_constraint .*\[(.*?)\].*tensor<{one.spec.vocab}x{one.spec.d_model}xf32>"
    assert {'{"tensor"}, {}', '{"tensor"}, {"fsdp"}'} <= set(re.findall(table, text))
