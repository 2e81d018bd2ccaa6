"""Costs derived from declarations, against what the program really has and does."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from training.common import learning_apart

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.inference import steps
from taxonomy.layers.params import MATRIX_ROLES
from taxonomy.scaling import accounting

BATCH, TIME = 2, 48


def matrix_flops(jaxpr) -> int:
    """FLOPs of all products of matrices in a program: 2 per multiplication, bodies of scans as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
        if equation.primitive.name == "ragged_dot_general":
            # Every row meets one matrix; or, for the gradient of the matrices, one row.
            total += 2 * equation.invars[0].aval.size * equation.outvars[0].aval.shape[-1]
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, core.ClosedJaxpr):
                    inner = inner.jaxpr
                if isinstance(inner, core.Jaxpr):
                    times = equation.params["length"] if equation.primitive.name == "scan" else 1
                    total += times * matrix_flops(inner)
    return total


def traced(function, *args) -> int:
    return matrix_flops(jax.make_jaxpr(function)(*args).jaxpr)


def tokens(batch=BATCH, time=TIME):
    return jax.ShapeDtypeStruct((batch, time), jnp.int32)


def apply(model):
    return lambda params, tokens: model.apply({"params": params}, tokens)


def counted(one, **execution):
    """The model as its FLOPs are counted: without slots that nobody may use, and the rows of experts without a gap."""
    everybody = dict(capacity=None, evaluation_capacity=None, slots=None)

    def dropless(value):
        if isinstance(value, tuple):
            return tuple(map(dropless, value))
        if not isinstance(value, registry.Component):
            return value
        inside = {name: dropless(argument) for name, argument in value.arguments}
        return value.replace(**inside | (everybody if value.name == "moe" else {}))

    model = dataclasses.replace(one.spec, blocks=tuple((name, dropless(block)) for name, block in one.spec.blocks))
    return model_lib.build(model, attention="reference", experts="ragged", **execution)


def test_parameters(family, tiny):
    one = tiny(family)
    costs = accounting.count(one.config.model)
    assert costs == accounting.count(one.spec)
    leaves = jax.tree_util.tree_leaves_with_path(one.params)
    # What moves a router's choice is state.
    assert costs.parameters == sum(leaf.size for path, leaf in leaves if path[-1].key != "selection_bias")
    assert sum(size for _, size in costs.by_part) == costs.parameters
    assert costs.active_parameters <= costs.parameters
    tables = [leaf.size for path, leaf in leaves if (path[0].key, path[-1].key) == ("embedding", "table")]
    assert costs.embedding_parameters == sum(tables) >= one.spec.vocab * one.spec.d_model
    assert (costs.layers, costs.d_model, costs.context) == (len(one.spec.decoder), one.spec.d_model, one.spec.context)


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
def test_forward_flops_equal_those_of_the_program(family, tiny, scan):
    one = tiny(family)
    model = counted(one, scan=scan)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    expected = BATCH * TIME * accounting.forward_flops_per_token(one.spec, TIME, masked=False)
    assert traced(apply(model), params, tokens()) == expected + once_a_batch(one.spec)


def once_a_batch(model) -> int:
    """FLOPs that no token pays for: the projections of distances."""
    parts = [part for block in model.decoder for part in model.block(block).walk() if part.kind == "attention"]
    widths = [part["heads"] * part["head_dim"] for part in parts if part["position"].name == "transformer_xl"]
    return 2 * model.d_model * (2 * TIME - 1) * sum(widths)


def test_training_flops_equal_those_of_the_program(family, tiny):
    """Forward and backward of the loss: each product has two more in the backward pass."""
    one = tiny(family)
    model = counted(one)

    def loss(params, tokens):
        return model.apply({"params": params}, tokens, tokens, method="loss").loss

    expected = 3 * BATCH * TIME * accounting.forward_flops_per_token(one.spec, TIME, masked=False)
    # Distances have no gradient: one more product each, not two. What learns from a loss of its own has none here.
    expected += 2 * once_a_batch(one.spec)
    apart = [part for path, part in accounting.declarations(one.spec) if path.rpartition("/")[2] in learning_apart(one.spec)]
    expected -= 4 * BATCH * TIME * sum(part.value.size for part in apart if part.role in MATRIX_ROLES)
    assert traced(jax.grad(loss), one.params, tokens()) == expected


def test_a_generator_is_trained_but_not_kept(tiny):
    """Its FLOPs are those of the program, which computes the logits once more for the samples; its parameters are counted apart."""
    one = tiny("electra")
    model, generator = one.model(attention="reference"), one.spec.generator
    alone, costs = accounting.count(one.spec.alone), accounting.count(one.spec)
    batch = jax.eval_shape(lambda: model_lib.blank(one.spec, BATCH, TIME))
    assert traced(lambda params, batch: model.apply({"params": params}, **batch), one.params, batch) == (
        BATCH * TIME * accounting.forward_flops_per_token(one.spec, TIME)
    )

    def loss(params, tokens):
        return model.apply({"params": params}, tokens, tokens, method="loss").loss

    sampled = 2 * spec.vectors(generator.embedding)["d_model"] * generator.vocab
    expected = accounting.train_flops_per_token(one.spec, TIME) + sampled
    assert traced(jax.grad(loss), one.params, tokens()) == BATCH * TIME * expected
    assert costs.parameters == alone.parameters
    assert costs.parameters + costs.generator_parameters == sum(leaf.size for leaf in jax.tree.leaves(one.params))
    assert costs.flops_per_token == alone.flops_per_token == alone.train_flops_per_token / 3
    assert costs.train_flops_per_token == accounting.train_flops_per_token(one.spec)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2:tiny,model.d_model=384,model.vocab=2048",
        "gpt3:tiny,model.d_model=384,model.vocab=2048",
        "palm:tiny,model.d_model=384,model.vocab=2048,model.attention=mqa(heads=6,head_dim=64)",
        "llama:tiny,model.d_model=384,model.vocab=2048,model.mlp=swiglu(d_ff=1024)",
    ],
)
def test_forward_flops_are_near_xlas_own_count(name):
    parsed = spec.model(config_lib.load_config(name).model)
    model = model_lib.build(parsed, scan=False, attention="reference")
    params = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    counted = jax.jit(apply(model)).lower(params, tokens()).cost_analysis()["flops"]
    expected = BATCH * TIME * accounting.forward_flops_per_token(parsed, TIME, masked=False)
    # XLA counts the elementwise work too.
    assert expected < counted < 1.03 * expected


def test_projections_of_global_tokens_cost_nothing_without_any(tiny):
    one = tiny("longformer")
    costs = accounting.count(one.spec)
    assert costs.parameters == sum(leaf.size for leaf in jax.tree.leaves(one.params))
    expected = BATCH * TIME * accounting.forward_flops_per_token(one.spec, TIME, masked=False)
    assert traced(apply(one.model(attention="reference")), one.params, tokens()) == expected


def test_masked_attention_counts_the_pairs_that_the_mask_allows(family, tiny):
    one = tiny(family)
    context = one.spec.context
    costs = accounting.count(one.spec)
    query, key = np.mgrid[:context, :context]
    expected = 0
    for block in one.spec.decoder:
        share = registry.instantiate(one.spec.block(block), parent=None).share
        for part in one.spec.block(block).walk():
            if part.kind == "attention":
                tracks = one.spec.block(block).get("count", 1)
                mask = registry.instantiate(part["mask"])
                pairs = int(mask.allowed(query, key).sum()) * share**2
                if mask.by_head:
                    pairs = int(mask.times(key[:1], key[:1]).sum()) / part["heads"]
                # Queries and keys of a head, and its values.
                widths = part["head_dim"] + part.get("rotary_dim", 0), part.get("value_dim", part["head_dim"])
                expected += 2 * part["heads"] * sum(widths) * pairs * tracks
                if part["position"].name == "transformer_xl":  # a third product
                    expected += 2 * part["heads"] * part["head_dim"] * pairs
    assert costs.attention_flops_per_token * context == pytest.approx(expected, rel=1e-12)
    assert costs.flops_per_token == accounting.forward_flops_per_token(one.spec)
    assert costs.train_flops_per_token == accounting.train_flops_per_token(one.spec, context) == 3 * costs.flops_per_token


def allocated(model, params, length: int, inputs: int, kind: str, dtype: str) -> accounting.CacheBytes:
    """Bytes of a row in the caches that the decoding loop allocates."""
    program = steps.Program(model, dtype, length, model.vocab, kind)
    read = {"inputs": tokens(2, inputs), "input_positions": tokens(2, inputs)} if inputs else {}
    _, caches = jax.eval_shape(functools.partial(steps.prefill, program, length), params, tokens(2, 1), tokens(2, 1), read)
    found = {True: 0, False: 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(caches):
        assert leaf.shape[0] == 2, path
        found[path[-1].key.endswith("_position")] += leaf.size * leaf.dtype.itemsize // 2
    return accounting.CacheBytes(found[False], found[True])


def check_cache(one) -> None:
    """What is described is what the loop allocates, of both kinds, for a few tokens and for more than any window."""
    model, inputs = one.spec, 7 if len(one.spec.stacks) > 1 else 0
    for length, kind, dtype in ((3 * model.context, "exact", "bfloat16"), (5, "int8", "float32")):
        expected = accounting.cache_bytes(model, length, inputs, kind, dtype)
        assert allocated(model, one.params, length, inputs, kind, dtype) == expected
    costs, of_inputs = accounting.count(model), accounting.cache_bytes(model, 0, inputs).vectors
    assert costs.kv_cache_bytes_per_token == accounting.cache_bytes(model, 1, inputs).vectors - of_inputs
    assert costs.kv_cache_bytes == accounting.cache_bytes(model, model.context, model.inputs).vectors


def test_cache_bytes_are_those_of_the_loop(family, tiny):
    check_cache(tiny(family))


def test_cache_bytes_beside_an_encoder_are_those_of_the_loop(encoder_family, tiny):
    if "decoder" not in tiny(encoder_family).spec.stacks:
        pytest.skip("an encoder alone does not decode")
    check_cache(tiny(encoder_family))


SPARSE = dict(
    vocab=40,
    d_model=16,
    context=TIME,
    norm="rmsnorm(eps=1e-6)",
    position="none",
    attention="mha(heads=2)",
    mlp="swiglu(d_ff=20)",
    moe="moe(experts=8, top_k=2, router=softmax, expert=swiglu(d_ff=12), shared=swiglu(d_ff=10), capacity=1.0)",
    blocks=dict(dense="pre(attention, mlp)", sparse="pre(attention, moe)"),
    decoder="dense + 2*sparse",
    head="untied",
    initializer="normal(std=0.02)",
)


def test_a_token_goes_through_a_part_of_the_experts():
    """Parameters by hand; FLOPs of a program in which every expert has as many slots as it has tokens on average."""
    parsed = spec.model(SPARSE)
    costs = accounting.count(parsed)
    attention, norms, expert = 4 * 16 * 16, 2 * 16, 3 * 16 * 12
    dense, sparse = attention + norms + 3 * 16 * 20, attention + norms + 16 * 8 + 3 * 16 * 10
    assert costs.active_parameters == dense + 2 * (sparse + 2 * expert) + 2 * 40 * 16 + 16
    assert costs.parameters == costs.active_parameters + 2 * 6 * expert
    model = model_lib.build(parsed, attention="reference")
    params = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    expected = BATCH * TIME * accounting.forward_flops_per_token(parsed, TIME, masked=False)
    assert traced(apply(model), params, tokens()) == expected
    loss = lambda params, tokens: model.apply({"params": params}, tokens, tokens, method="loss").loss  # noqa: E731
    assert traced(jax.grad(loss), params, tokens()) == 3 * expected


def test_experts_of_an_encoder_see_its_tokens():
    """Which are more than those of the decoder beside it."""
    decoder = {"cross": "mha(heads=2, source='encoder', mask=full)", "blocks": {**SPARSE["blocks"], "last": "pre(cross, moe)"}}
    parsed = spec.model({**SPARSE, **decoder, "inputs": 2 * TIME, "encoder": "2*sparse", "decoder": "dense + last"})
    model = model_lib.build(parsed, attention="reference")
    both = tokens(time=2 * TIME), tokens()
    params = jax.eval_shape(model.init, jax.random.key(0), *both)["params"]
    forward = lambda params, inputs, tokens: model.apply({"params": params}, inputs, tokens)  # noqa: E731
    expected = BATCH * TIME * accounting.forward_flops_per_token(parsed, TIME, masked=False)
    assert traced(forward, params, *both) == expected


def test_a_tied_head_is_counted_once():
    tied = accounting.count(config_lib.load_config("gpt2:tiny").model)
    untied = accounting.count(config_lib.load_config("gpt2:tiny,model.head=untied").model)
    assert tied.flops_per_token == untied.flops_per_token
    assert untied.parameters - tied.parameters == 512 * 64
    assert untied.embedding_parameters == tied.embedding_parameters == (512 + 64) * 64


def test_conventions():
    """The 6 N estimates against a published breakdown: arXiv:2005.14165, Table D.1, counts 6 x 174.6e9 for the largest."""
    costs = accounting.count(config_lib.load_config("gpt3:175b").model)
    assert costs.six_n == 6 * 174_604_259_328
    assert costs.six_n_without_embeddings == 6 * (174_604_259_328 - (50257 + 2048) * 12288)
    assert 1 < costs.train_flops_per_token / costs.six_n_without_embeddings < 1.02
    # 12 L H Q T of all pairs (arXiv:2204.02311, Appendix B).
    parsed = spec.model(config_lib.load_config("palm:8b").model)
    every_pair = accounting.forward_flops_per_token(parsed, masked=False) - accounting.forward_flops_per_token(parsed)
    attention = accounting.count(parsed).attention_flops_per_token + every_pair
    assert 3 * attention == 12 * 32 * 16 * 256 * 2048


def test_two_streams_share_keys_values_and_the_head():
    """Forward, and forward and backward, of a model that reads an order."""
    parsed = spec.model(config_lib.load_config("xlnet:tiny").model)
    model = model_lib.build(parsed, attention="reference")
    params = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    forward = accounting.forward_flops_per_token(parsed, TIME, masked=False, ordered=True)
    of_distances = 2 * 64 * (2 * TIME - 1) * 64 * len(parsed.encoder)
    apply = lambda params, tokens: model.apply({"params": params}, tokens, order=tokens)  # noqa: E731
    assert traced(apply, params, tokens()) == BATCH * TIME * forward + of_distances
    loss = lambda params, tokens: model.apply({"params": params}, tokens, tokens, order=tokens, method="loss").loss  # noqa: E731
    assert traced(jax.grad(loss), params, tokens()) == 3 * BATCH * TIME * forward + 2 * of_distances
    ordered = accounting.train_flops_per_token(parsed, TIME, ordered=True)
    assert ordered == 3 * accounting.forward_flops_per_token(parsed, TIME, ordered=True)


def test_parts():
    parts = dict(accounting.count(config_lib.load_config("gpt3:tiny").model).by_part)
    assert parts["embedding/positions"] == 64 * 64
    assert parts["decoder/dense/mlp"] == parts["decoder/banded/mlp"] == 2 * (2 * 4 * 64 * 64 + 5 * 64)
