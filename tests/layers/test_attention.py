"""Self-attention sublayers, against PyTorch's attention on the same projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context

KEYS = {"position": "none", "mask": "causal", "initializer": "normal(std=1)", "norm": "rmsnorm(eps=1e-5)"}
X = np.random.default_rng(0).standard_normal((2, 9, 24)).astype(np.float32) / 2
CONTEXT = Context(jnp.broadcast_to(jnp.arange(9), (2, 9)))


def sublayer(sentence: str, **keys: str):
    scope = spec.Scope("attention", {"d_model": 24, "context": 9}, {**KEYS, **keys})
    return registry.instantiate(spec.resolve(sentence, ("attention",), scope))


def oracle(module, params, x, *, allowed=None, rotate=lambda x: x, bias=None) -> np.ndarray:
    """The sublayer with torch's own attention; every head of a group is repeated by torch."""
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params)

    def heads(name):
        y = torch.einsum("btd,dhk->bthk", torch.tensor(x), p[name]) + p.get(f"{name}_bias", 0)
        norm = p.get(f"{name}_norm")
        return y if norm is None else torch.nn.functional.rms_norm(y, y.shape[-1:], norm["scale"], 1e-5)

    q, k = (torch.tensor(np.asarray(rotate(jnp.asarray(heads(name).numpy())))) for name in ("query", "key"))
    q, k, v = (y.transpose(1, 2) for y in (q, k, heads("value")))
    time = x.shape[1]
    mask = torch.ones(time, time).tril().bool() if allowed is None else torch.tensor(np.asarray(allowed))
    if bias is not None:
        mask = torch.where(mask, torch.tensor(np.asarray(bias)), -torch.inf)
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=module.scale, enable_gqa=True)
    if "inner_norm" in p:
        inner, shape = y.transpose(1, 2).flatten(2), y.transpose(1, 2).shape
        inner = torch.nn.functional.rms_norm(inner, inner.shape[-1:], p["inner_norm"]["scale"], 1e-5)
        y = inner.reshape(shape).transpose(1, 2)
    return torch.einsum("bhtk,hkd->btd", y, p["out"]) + p.get("bias_D", 0)


@pytest.mark.parametrize(
    ("sentence", "shapes"),
    [
        ("mha(heads=4)", {"query": (24, 4, 6), "key": (24, 4, 6), "value": (24, 4, 6), "out": (4, 6, 24)}),
        ("mha(heads=2, head_dim=5, bias=True)", {"query": (24, 2, 5), "value_bias": (2, 5), "bias_D": (24,)}),
        ("mha(heads=4, bias=True, out_bias=False)", {"query_bias": (4, 6)}),
        ("mha(heads=4, out_bias=True)", {"bias_D": (24,)}),
        ("mqa(heads=4)", {"query": (24, 4, 6), "key": (24, 1, 6), "value": (24, 1, 6)}),
        ("mqa(heads=3, head_dim=4, bias=True)", {"key_bias": (1, 4)}),
        ("gqa(heads=6, kv_heads=2, head_dim=8)", {"query": (24, 6, 8), "key": (24, 2, 8), "out": (6, 8, 24)}),
        ("gqa(heads=6, kv_heads=3, bias=True, scale=0.3)", {"key_bias": (3, 4)}),
        ("gqa(heads=4, kv_heads=2, qk_norm=norm)", {}),
        ("gqa(heads=4, kv_heads=2, inner_norm=norm)", {}),
    ],
)
def test_attention_is_that_of_torch(sentence, shapes, random_params):
    module = sublayer(sentence)
    params = random_params(module, X, CONTEXT)
    assert {name: params[name].shape for name in shapes} == shapes
    assert ("bias_D" in params) == ("bias_D" in shapes or ("bias=True" in sentence and "out_bias" not in sentence))
    assert ("query_bias" in params) == (", bias=True" in sentence)
    found = jax.jit(module.apply)({"params": params}, X, CONTEXT)
    np.testing.assert_allclose(found, oracle(module, params, X), rtol=1e-5, atol=1e-5)


def test_groups_of_one_and_of_all_are_the_other_attentions(random_params):
    """GQA with as many key-value heads as heads is MHA; with one it is MQA."""
    for kv_heads, other in ((4, "mha(heads=4)"), (1, "mqa(heads=4)")):
        grouped, plain = sublayer(f"gqa(heads=4, kv_heads={kv_heads})"), sublayer(other)
        params = random_params(grouped, X, CONTEXT)
        np.testing.assert_array_equal(grouped.apply({"params": params}, X, CONTEXT), plain.apply({"params": params}, X, CONTEXT))


@pytest.mark.parametrize("position", ["rope", "rope(dims=4, interleaved=True)", "alibi"])
def test_positions_enter_queries_keys_and_scores(position, random_params):
    module = sublayer("gqa(heads=4, kv_heads=2)", position=position)
    params = random_params(module, X, CONTEXT)
    part = registry.create("position", position, "position")
    queries = X.reshape(2, 9, 4, -1)
    _, _, bias = part.attend(queries, queries, CONTEXT, 1.0)
    found = jax.jit(module.apply)({"params": params}, X, CONTEXT)
    expected = oracle(
        module,
        params,
        X,
        rotate=lambda x: part.attend(x, x, CONTEXT, 1.0)[0],
        bias=bias and bias(queries, CONTEXT.positions_BT, CONTEXT.positions_BT, 0),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(found, oracle(module, params, X), atol=1e-3)


def test_a_sharpened_position_multiplies_scores(random_params):
    """DeepSeek-V2 (arXiv:2405.04434, section 3.1.4): by (0.0707 ln s + 1)^2."""
    yarn = "rope(scaling=yarn(factor=40, original_context=4096, magnitude=1, sharpening={}))"
    sharp = sublayer("mha(heads=4)", position=yarn.format(0.707))
    plain = sublayer(f"mha(heads=4, scale={(0.0707 * np.log(40) + 1) ** 2 * 6**-0.5})", position=yarn.format(0))
    params = random_params(sharp, X, CONTEXT)
    found, expected = (module.apply({"params": params}, X, CONTEXT) for module in (sharp, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("norm", ["rmsnorm(eps=1e-5)", "rmsnorm(eps=1e-5, gain=False)", "layernorm(eps=1e-5)"])
@pytest.mark.parametrize("per_head", [False, True])
def test_norms_of_queries_and_keys(per_head, norm, after, random_params):
    """Over the features of a head, before or after rope; gains may differ from head to head."""
    options = f"qk_norm={norm}, qk_norm_per_head={per_head}, qk_norm_after_position={after}"
    module = sublayer(f"gqa(heads=4, kv_heads=2, {options})", position="rope")
    params = random_params(module, X, CONTEXT)
    rope = registry.create("position", "rope", "position")
    own = {name: params.get(f"{name}_norm", {}) for name in ("query", "key")}
    shapes = {name: value.shape for name, value in own["key"].items()}
    expected = {"scale": 6, "bias": 6} if "layer" in norm else {"scale": 6} if "False" not in norm else {}
    assert shapes == {name: (2, size) if per_head else (size,) for name, size in expected.items()}

    def encode(x):
        name = "query" if x.shape[2] == 4 else "key"

        def normed(y):
            y = y - y.mean(-1, keepdims=True) if "layer" in norm else y
            y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
            return y * np.asarray(own[name].get("scale", 1)) + np.asarray(own[name].get("bias", 0))

        return normed(rope.rotate(x, CONTEXT.positions_BT)) if after else rope.rotate(normed(x), CONTEXT.positions_BT)

    plain = {name: value for name, value in params.items() if not name.endswith("_norm")}
    found = jax.jit(module.apply)({"params": params}, X, CONTEXT)
    np.testing.assert_allclose(found, oracle(module, plain, X, rotate=encode), rtol=1e-5, atol=1e-5)


def test_a_temperature_multiplies_queries(random_params):
    """Llama 4: 1 + 0.3 ln(1 + floor((position + 1) / 4))."""
    module = sublayer("mha(heads=4, temperature=log_position(scale=0.3, floor=4))")
    params = random_params(module, X, CONTEXT)
    factor = [1.0] * 3 + [1 + 0.3 * np.log(2)] * 4 + [1 + 0.3 * np.log(3)] * 2
    part = registry.create("temperature", "log_position(scale=0.3, floor=4)", "temperature")
    np.testing.assert_allclose(part(jnp.ones((2, 9, 1, 1)), CONTEXT.positions_BT)[1, :, 0, 0], factor, rtol=1e-6)
    p = jax.tree.map(np.asarray, params)
    # The same as scaling the scores of each query.
    q, k, v = (np.einsum("btd,dhk->bhtk", X, p[name]) for name in ("query", "key", "value"))
    scores = np.where(np.tri(9), q @ k.swapaxes(2, 3) * 6**-0.5 * np.asarray(factor)[:, None], -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bhtk,hkd->btd", weights / weights.sum(-1, keepdims=True) @ v, p["out"])
    np.testing.assert_allclose(module.apply({"params": params}, X, CONTEXT), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="floor=0 must be at least 1"):
        sublayer("mha(heads=4, temperature=log_position(scale=0.3, floor=0))")


@pytest.mark.parametrize(("mask", "window"), [("full", None), ("causal", None), ("local(window=3)", 3), ("local(window=1)", 1)])
def test_masks(mask, window, random_params):
    module = sublayer("mha(heads=4)", mask=mask)
    params = random_params(module, X, CONTEXT)
    t, s = np.indices((9, 9))
    allowed = np.ones((9, 9), bool) if mask == "full" else (s <= t) & (t - s < (window or 99))
    found = jax.jit(module.apply)({"params": params}, X, CONTEXT)
    np.testing.assert_allclose(found, oracle(module, params, X, allowed=allowed), rtol=1e-5, atol=1e-5)


def test_documents_of_a_row_do_not_meet(random_params):
    module = sublayer("mha(heads=4)")
    params = random_params(module, X, CONTEXT)
    segments = np.asarray([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2, 2]])
    same = (segments[:, :, None] == segments[:, None, :])[:, None] & np.tri(9, dtype=bool)
    found = module.apply({"params": params}, X, CONTEXT.replace(segments_BT=segments))
    np.testing.assert_allclose(found, oracle(module, params, X, allowed=same), rtol=1e-5, atol=1e-5)


def test_global_tokens_see_and_are_seen_by_all_of_their_document(random_params):
    """Beltagy et al. 2020, section 3.1: with projections of their own for what they see, and those of all for who sees them."""
    module = sublayer("mha(heads=4, global_projections=True)", mask="around(sides=1)")
    params = random_params(module, X, CONTEXT)
    segments, prefix = np.asarray([[1, 1, 1, 1, 1, 2, 2, 2, 2]] * 2), np.zeros((2, 9), bool)
    prefix[0, [0, 3, 7]] = True
    found = module.apply({"params": params}, X, CONTEXT.replace(segments_BT=segments, prefix_BT=prefix))
    t, s = np.indices((9, 9))
    same, near = segments[:, :, None] == segments[:, None, :], np.abs(t - s) <= 1
    seen = same & (near | prefix[:, None, :])
    own = {name: params[f"global_{name}"] for name in ("query", "key", "value")} | {"out": params["out"]}
    usual, globally = (oracle(module, p, X, allowed=allowed[:, None]) for p, allowed in ((params, seen), (own, same)))
    np.testing.assert_allclose(found, np.where(prefix[:, :, None], globally, usual), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="global_projections need a mask with a prefix"):
        sublayer("mha(heads=4, global_projections=True)", mask="full")


def test_sinks_take_weight_and_give_nothing(random_params):
    module = sublayer("gqa(heads=4, kv_heads=2, sinks=True)")
    params = random_params(module, X, CONTEXT)
    assert params["sinks"].shape == (4,)
    found = module.apply({"params": params}, X, CONTEXT)
    p = jax.tree.map(np.asarray, params)
    q, k, v = (np.einsum("btd,dhk->bhtk", X, p[name]) for name in ("query", "key", "value"))
    scores = np.where(np.tri(9), q @ k.repeat(2, 1).swapaxes(2, 3) * 6**-0.5, -np.inf)
    weights = np.exp(scores)
    weights = weights / (weights.sum(-1, keepdims=True) + np.exp(p["sinks"])[:, None, None])
    np.testing.assert_allclose(found, np.einsum("bhtk,hkd->btd", weights @ v.repeat(2, 1), p["out"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", ["", ", qk_norm=norm", ", qk_norm=norm, qk_norm_after_position=True"])
def test_keys_and_values_can_be_those_of_an_earlier_layer(options, random_params):
    """As if the layer had made them: of that layer's stream, with that layer's projections."""
    lender, own = (sublayer(f"gqa(heads=4, kv_heads=2{more}{options})", position="rope") for more in (", lends=True", ""))
    borrower = sublayer(f"gqa(heads=4, kv_heads=2, source='earlier'{options})", position="rope")
    lent = []
    lending = CONTEXT.replace(lend=lent.append)
    of_lender = random_params(lender, X, lending)
    lent.clear()
    usual = lender.apply({"params": of_lender}, X, lending)
    np.testing.assert_array_equal(usual, own.apply({"params": of_lender}, X, CONTEXT))
    context = CONTEXT.replace(lent=lent[0])
    params = random_params(borrower, X, context, seed=1)
    assert set(params) == {"query", "out"} | ({"query_norm"} if options else set())

    # The same stream, so that a layer with all projections does the same.
    both = {**of_lender, **params}
    expected = own.apply({"params": both}, X, CONTEXT)
    assert not np.allclose(expected, usual, atol=1e-2)
    np.testing.assert_allclose(borrower.apply({"params": params}, X, context), expected, rtol=1e-6, atol=1e-6)
    # Another stream asks the same keys: what a token sees ends with its own place.
    other = borrower.apply({"params": params}, np.where(np.arange(9)[:, None] < 5, X, 0), context)
    np.testing.assert_allclose(other[:, :5], expected[:, :5], rtol=1e-6, atol=1e-6)
    assert borrower.cache_widths() == () and borrower.attention_flops(9) == own.attention_flops(9)
    with pytest.raises(ValueError, match="source='earlier' needs a layer before it"):
        borrower.apply({"params": params}, X, CONTEXT)


def test_dropout_acts_on_the_weights(random_params):
    module, quiet = sublayer("mha(heads=4, dropout=0.5)"), sublayer("mha(heads=4)")
    params = random_params(module, X, CONTEXT)
    train = CONTEXT.replace(train=True)
    apply = jax.jit(lambda seed: module.apply({"params": params}, X, train, rngs={"dropout": jax.random.key(seed)}))
    expected = quiet.apply({"params": params}, X, CONTEXT)
    np.testing.assert_array_equal(module.apply({"params": params}, X, CONTEXT), expected)
    np.testing.assert_array_equal(apply(0), apply(0))
    draws = np.stack([apply(seed) for seed in range(600)])
    spread = draws.std(0)
    assert spread.min() > 0
    np.testing.assert_allclose(draws.mean(0), expected, atol=5 * spread.max() / 600**0.5)


def test_an_unknown_implementation_names_the_nearest(random_params):
    module = sublayer("mha(heads=4)")
    params = random_params(module, X, CONTEXT)
    with pytest.raises(UserError, match="unknown implementation 'chunkd'; did you mean 'chunked'"):
        module.apply({"params": params}, X, CONTEXT.replace(attention="chunkd"))


def test_what_a_layer_costs():
    """Scores and weighted sum: two products of head_dim for each key seen; a cache holds keys and values."""
    t, s = np.indices((9, 9))
    for mask, allowed in (("causal", s <= t), ("full", s < 99), ("local(window=3)", (s <= t) & (t - s < 3))):
        module = sublayer("gqa(heads=4, kv_heads=2, head_dim=6)", mask=mask)
        assert module.attention_flops(9) == pytest.approx(2 * 2 * 4 * 6 * allowed.sum() / 9)
        assert module.cache_widths() == 2 * 2 * (6,)
    assert sublayer("mqa(heads=4)").cache_widths() == (6, 6)
    assert sublayer("mha(heads=4)").cache_widths() == 8 * (6,)
