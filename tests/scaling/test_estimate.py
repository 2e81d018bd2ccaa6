"""What a plan says of a step against what the compiler says of the same step, and the rules by which arrays are placed."""

import jax
import jax.numpy as jnp
import pytest
from ops.test_attention import Case

from taxonomy import config as config_lib
from taxonomy import sharding
from taxonomy.scaling import accelerators, tracing
from taxonomy.scaling.accounting import forward_flops_per_token
from taxonomy.scaling.estimate import estimate
from taxonomy.scaling.placement import Move, Place, Rules
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import abstract_batch, make_plan

H100 = accelerators.find("h100")


def both(name: str, overrides: dict):
    """An estimate for a mesh of 8 devices, and the compiled step."""
    plan = make_plan(config_lib.load_config(name, overrides), 8)
    mesh = plan.config.mesh
    lowered = make_trainer(plan).lower(abstract_batch(plan, plan.batches.full), plan.most_microbatches)
    return estimate(plan, sharding.abstract_mesh(mesh, 8), H100), lowered.compile()


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        (
            "llama:tiny",
            {
                "mesh": "fsdp:4,tensor:2",
                "train.remat": "full",
                "model.d_model": 128,
                "model.context": 256,
                "model.decoder": "6*block",
                "train.batch_tokens": 8192,
            },
        ),
        ("llama:tiny", {"mesh": "data:8", "model.vocab": 16384, "train.batch_tokens": 4096}),
        ("gpt2:tiny", {"mesh": "data:2,fsdp:4", "train.remat": "dots", "model.d_model": 128, "train.batch_tokens": 8192}),
        ("palm:tiny", {"mesh": "fsdp:8", "train.batch_tokens": 8192, "train.microbatch_tokens": 2048}),
        (
            "llama:tiny",
            {
                "mesh": "stage:2,data:4",
                "train.remat": "full",
                "model.d_model": 128,
                "model.context": 512,
                "model.decoder": "6*block",
                "train.batch_tokens": 32768,
            },
        ),
        ("t5:tiny", {"mesh": "data:4,tensor:2", "train.batch_tokens": 8192}),
        ("bert:tiny", {"mesh": "data:8", "train.batch_tokens": 8192}),
        ("gemma3:tiny", {"mesh": "fsdp:4,tensor:2", "train.batch_tokens": 8192}),
        (
            "llama:tiny",
            {
                "mesh": "fsdp:4,tensor:2",
                "train.remat": "full",
                "train.stream": "features",
                "model.d_model": 128,
                "model.context": 256,
                "model.decoder": "12*block",
                "train.batch_tokens": 8192,
            },
        ),
        ("llama:tiny", {"mesh": "sequence:4,fsdp:2", "train.attention": "ring", "train.batch_tokens": 8192}),
        ("mixtral:tiny", {"mesh": "fsdp:4,tensor:2", "train.remat": "full", "train.batch_tokens": 8192}),
        ("glam:tiny", {"mesh": "data:2,expert:4", "train.batch_tokens": 8192}),
        ("deepseek_v2:tiny", {"mesh": "data:8", "model.decoder": "3*dense", "train.batch_tokens": 8192}),
    ],
)
def test_memory_is_what_the_compiler_says(name, overrides):
    said, compiled = both(name, overrides)
    memory = compiled.memory_analysis()
    assert said.arguments == memory.argument_size_in_bytes
    assert said.temporary == pytest.approx(memory.temp_size_in_bytes, rel=0.2)


def test_flops_are_those_of_the_formula():
    """Every product three times; under full remat those of the blocks once more, but for the last, whose result nothing reads."""
    size = {"mesh": "data:4,tensor:2", "train.attention": "reference", "train.batch_tokens": 2048}
    found = {}
    for remat in ("none", "full"):
        plan = make_plan(config_lib.load_config("gpt2:tiny", size | {"train.remat": remat}), 8)
        found[remat] = estimate(plan, sharding.abstract_mesh(plan.config.mesh, 8), H100)
    forward = forward_flops_per_token(plan.model, plan.context, masked=False) * 2048 / 8
    head = 2 * plan.model.d_model * plan.model.vocab * 2048 / 8
    assert found["none"].flops == pytest.approx(3 * forward, rel=1e-6)
    last = 2 * len(plan.model.decoder) * 4 * plan.model.d_model**2 * 2048 / 8
    assert found["full"].flops == pytest.approx(4 * forward - head - last, rel=1e-6)
    assert found["none"].model_flops == found["full"].model_flops


RULES = Rules({"data": 2, "fsdp": 4, "tensor": 2})


def placed(function, *arguments):
    """Costs and places of a function of arrays given as (shape, the mesh axes of each dimension)."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape, _ in arguments]
    places = [Place(tuple((axis,) if axis else () for axis in axes)) for _, axes in arguments]
    cost, found, _ = tracing.cost(jax.make_jaxpr(function)(*arrays).jaxpr, places, RULES)
    return cost, found[0], tracing.by_axes(cost.moved)


def test_a_sum_over_a_divided_dimension_is_added_up():
    cost, place, moved = placed(jnp.matmul, ((64, 32), ("data", "tensor")), ((32, 16), ("tensor", None)))
    assert place == Place((("data",), ())) and moved == {("all-reduce", ("tensor",)): 32 * 16 * 4}
    assert cost.flops == 2 * 64 * 32 * 16 / 4


def test_a_fully_sharded_parameter_is_gathered():
    cost, place, moved = placed(jnp.matmul, ((64, 32), ("fsdp", None)), ((32, 16), ("fsdp", "tensor")))
    assert place == Place((("fsdp",), ("tensor",))) and moved == {("all-gather", ("fsdp",)): 32 * 8 * 4}
    assert cost.flops == 2 * 64 * 32 * 16 / 8 and cost.peak == 32 * 8 * 4


def test_gradients_of_parameters_are_left_in_parts():
    _, place, moved = placed(lambda x, y: x.T @ y, ((64, 32), ("fsdp", None)), ((64, 16), ("fsdp", None)))
    assert place == Place(((), ()), ("fsdp",)) and moved == {("reduce-scatter", ("fsdp",)): 32 * 16 * 4}


@pytest.mark.parametrize(
    ("function", "axes"),
    [
        (lambda x: x.reshape(8, 4, 4, 6), (("data",), ("tensor",), (), ())),
        (lambda x: x.reshape(8, 96), (("data",), ("tensor",))),
        (lambda x: x.swapaxes(0, 1), (("tensor",), ("data",), ())),
        (lambda x: jnp.exp(x)[None] * 2, ((), ("data",), ("tensor",), ())),
        (lambda x: x.sum(2), (("data",), ("tensor",))),
    ],
)
def test_dimensions_keep_their_place(function, axes):
    cost, place, moved = placed(function, ((8, 16, 6), ("data", "tensor", None)))
    assert place.dims == axes and not moved and not cost.flops


def test_a_scan_counts_every_turn_and_what_it_keeps():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, weights)[1]

    cost, place, moved = placed(layers, ((64, 32), ("data", None)), ((5, 32, 32), (None, "tensor", None)))
    assert place == Place(((), ("data",), ()))
    assert cost.flops == 5 * 2 * 64 * 32 * 32 / 2 / 2 and moved == {("all-reduce", ("tensor",)): 5 * 32 * 32 * 4}


def test_a_scan_gathers_what_does_not_change_once():
    def chunks(kernel, xs):
        return jax.lax.map(lambda x: x @ kernel, xs)

    _, _, moved = placed(chunks, ((32, 16), ("fsdp", "tensor")), ((5, 64, 32), (None, "fsdp", None)))
    assert moved == {("all-gather", ("fsdp",)): 32 * 8 * 4}


def test_the_gradient_of_a_table_is_added_up():
    def gradient(table, indices):
        return jax.grad(lambda table: jnp.sin(table[indices]).sum())(table)

    arrays = jax.ShapeDtypeStruct((64, 16), jnp.float32), jax.ShapeDtypeStruct((8, 4), jnp.int32)
    jaxpr = jax.make_jaxpr(gradient)(*arrays).jaxpr
    cost, found, _ = tracing.cost(jaxpr, [Place(((), ())), Place((("data", "fsdp"), ()))], RULES)
    moved = tracing.by_axes(cost.moved)
    assert moved.pop(("all-reduce", ("data", "fsdp"))) == 4  # of the sum itself
    assert moved == {("reduce-scatter", ("fsdp",)): 64 * 16 * 4, ("all-reduce", ("data",)): 64 * 16 * 4 / 4}
    assert found[0] == Place(((), ()), ("fsdp",))


def test_the_gradient_of_a_choice_in_every_row_stands_with_its_rows():
    def gradient(x, chosen):
        return jax.grad(lambda x: jnp.sin(jnp.take_along_axis(x, chosen, 2)).sum())(x)

    arrays = jax.ShapeDtypeStruct((64, 8, 4), jnp.float32), jax.ShapeDtypeStruct((64, 8, 1), jnp.int32)
    _, found, _ = tracing.cost(jax.make_jaxpr(gradient)(*arrays).jaxpr, [Place((("data",), (), ()))] * 2, RULES)
    assert found[0] == Place((("data",), (), ()))


def test_what_only_reductions_read_is_not_kept():
    """Squares that are summed, also in another shape; what a product reads is."""
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    squares = lambda x: ((x * x).reshape(32, 64).sum(0), (x * x).sum(1))  # noqa: E731
    cost, *_ = tracing.cost(jax.make_jaxpr(squares)(x).jaxpr, [Place(((), ()))], RULES)
    assert cost.peak == 0
    cost, *_ = tracing.cost(jax.make_jaxpr(lambda x: (x * x).T @ x)(x).jaxpr, [Place(((), ()))], RULES)
    assert cost.peak == 64 * 32 * 4


def test_a_broadcast_of_a_constant_is_no_array():
    """Also in steps, and where a scan reads it; that of an array is one."""

    def scanned(row):
        table = jnp.broadcast_to(jnp.broadcast_to(row, (1, 32)), (64, 32))
        return jax.lax.scan(lambda x, _: (jnp.where(x > 0, x, table), None), jnp.ones((64, 32)), length=3)[0]

    constant = jax.make_jaxpr(lambda: scanned(jnp.float32(2.0)))()
    assert tracing.cost(constant.jaxpr, [], RULES)[0].peak == 0
    given = jax.make_jaxpr(scanned)(jax.ShapeDtypeStruct((32,), jnp.float32))
    assert tracing.cost(given.jaxpr, [Place(((),))], RULES)[0].peak == 64 * 32 * 4


def test_a_barrier_makes_nothing_and_leaves_all_where_it_is():
    def product(x, y):
        x, y = jax.lax.optimization_barrier((x @ x.T, y))
        return jnp.sin(x).sum(), y

    arrays, places = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 2, [Place((("data",), ())), Place(((), ("tensor",)))]
    cost, found, _ = tracing.cost(jax.make_jaxpr(product)(*arrays).jaxpr, places, RULES)
    plain, without, _ = tracing.cost(jax.make_jaxpr(lambda x, y: (jnp.sin(x @ x.T).sum(), y))(*arrays).jaxpr, places, RULES)
    assert found == without and found[1] == places[1]
    assert cost.peak == plain.peak > 0


def test_an_axis_divides_an_array_once():
    _, place, _ = placed(
        lambda x, y, w: x.T @ y + w, ((64, 32), ("fsdp", None)), ((64, 16), ("fsdp", None)), ((32, 16), ("fsdp", None))
    )
    assert sorted(place.axes) == ["fsdp"]


@pytest.mark.parametrize(("mask", "share"), [("causal", 3 / 4), ("full", 1), ("local(window=100)", 3 / 4)])
def test_a_kernel_counts_the_blocks_that_its_mask_leaves(mask, share):
    """Of 2 x 2 blocks. Forward there are two products, backward the scores and what comes to them twice, and three gradients.

    Outputs times their gradients, one number a query, are beside the kernel.
    """
    case = Case(1024, batch=3, heads=4, mask=mask)
    for function, products in (
        (lambda *arrays: case.attend(*arrays, "splash"), 2),
        (jax.grad(lambda *arrays: case.attend(*arrays, "splash").sum(), (0, 1, 2)), 2 + 7),
    ):
        jaxpr = jax.make_jaxpr(function)(*case.arrays()).jaxpr
        cost, *_ = tracing.cost(jaxpr, [Place(((),) * 4)] * 3, RULES)
        beside = (products > 2) * 3 * 4 * 2 * 1024 * 8
        assert cost.flops == share * products * 3 * 4 * 2 * 1024**2 * 8 + beside


def test_what_a_ring_sends():
    rules, size = Rules({"data": 8}), 1000 * 4.0
    sent = {
        kind: tracing.sent(Move(kind, ("data",), 1000, 4), rules, torus=False)
        for kind in ("all-gather", "all-reduce", "all-to-all")
    }
    assert sent == {"all-gather": size * 7 / 8, "all-reduce": size * 14 / 8, "all-to-all": size * 7 / 8}
    # Both directions of a ring of eight: a part travels two links on average.
    assert tracing.sent(Move("all-to-all", ("data",), 1000, 4), rules, torus=True) == size * 2


def test_every_accelerator_has_a_name_in_jax():
    for kind, name in (
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v4", "v4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("TPU v6 lite", "v6e"),
    ):
        assert accelerators.of_device(kind).name == name
    assert accelerators.of_device("cpu") is None
