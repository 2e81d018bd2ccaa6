"""Keys and values that a layer lends to later ones: in stacks, in caches, and where it cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.layers.context import Context
from taxonomy.model import build
from taxonomy.scaling import accounting

SECTION = dict(
    vocab=16,
    d_model=16,
    context=32,
    norm="rmsnorm(eps=1e-5)",
    position="rope",
    attention="gqa(heads=4, kv_heads=2)",
    lending="gqa(heads=4, kv_heads=2, lends=True)",
    borrowing="gqa(heads=4, kv_heads=2, source='earlier')",
    mlp="swiglu(d_ff=24)",
    blocks=dict(own="pre(attention, mlp)", last="parallel(lending, mlp)", late="post(borrowing, mlp)"),
    decoder="2*own + last + 2*late",
    head="tied",
    initializer="normal(std=0.3)",
)
TOKENS = np.random.default_rng(0).integers(0, 16, (2, 11))


@pytest.mark.parametrize("decoder", ["own + last + 2*late", "2*(last + own + late)", "last + late + last + late"])
def test_keys_are_those_of_the_last_layer_that_lends(decoder, random_params):
    """Layer by layer, with what each of them lends handed on."""
    model = build({**SECTION, "decoder": decoder}, scan=False)
    params = random_params(model, TOKENS)
    context = Context(jnp.broadcast_to(jnp.arange(11), (2, 11)))
    x = params["embedding"]["table"][TOKENS]

    def layers(tree):
        for name, inside in sorted(tree.items(), key=lambda pair: [int(part) for part in pair[0].split("_") if part.isdigit()]):
            yield from layers(inside) if "repeat" in name else [(name.split("_")[1], inside)]

    for block, own in layers(params["decoder"]):
        x = registry.instantiate(model.spec.block(block)).apply({"params": own}, x, context)
        if block == "last":
            x, lent = x
            context = context.replace(lent=lent)
    found = model.apply({"params": params}, TOKENS, method="features")
    if model.spec.final_norm is not None:
        x = registry.instantiate(model.spec.final_norm).apply({"params": params["final_norm"]}, x)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


def test_borrowed_keys_are_cached_once():
    costs = accounting.count(SECTION)
    of_a_layer = 2 * 2 * 4 * 2  # keys and values, heads, features, bytes
    assert (costs.layers, costs.kv_cache_bytes_per_token) == (5, 3 * of_a_layer)
    model = build(SECTION)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS, cache_length=32))
    assert "late" not in str(jax.tree_util.tree_structure(variables["cache"])) and "2_repeat" in variables["params"]["decoder"]
    # All else equal, the layers that borrow have no projections of keys and values.
    own = accounting.count({**SECTION, "borrowing": "gqa(heads=4, kv_heads=2)"})
    assert own.parameters - costs.parameters == 2 * 2 * 16 * 2 * 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": "own + late"}, r"^model\.blocks\.late: source='earlier' needs a layer before it with lends=True"),
        ({"decoder": "late + last + late"}, "needs a layer before it"),
        ({"decoder": "2*last + late"}, "what a repeat's body lends stays inside"),
        ({"borrowing": "gqa(heads=4, kv_heads=1, source='earlier')"}, "needs the kv_heads of the layer that lends, 2, got 1"),
        ({"borrowing": "mqa(heads=2, head_dim=4, source='earlier')"}, "needs the kv_heads of the layer that lends, 2, got 1"),
        ({"borrowing": "gqa(heads=2, kv_heads=2, source='earlier')"}, "needs the head_dim of the layer that lends, 4, got 8"),
        ({"borrowing": "gqa(heads=4, kv_heads=2, source='earlier', position=none)"}, "needs the position of the layer that lends"),
        (
            {"lending": "gqa(heads=4, kv_heads=2, lends=True, mask=local(window=4))"},
            r"with mask=causal sees beyond the 4 keys that mask=local\(window=4\) keeps",
        ),
        ({"borrowing": "gqa(heads=4, kv_heads=2, source='earlier', lends=True)"}, "has no keys of its own for lends=True"),
        ({"blocks": {**SECTION["blocks"], "last": "pre(lending, lending, mlp)"}}, "one attention of a block may have lends=True"),
    ],
)
def test_what_cannot_be_lent(changes, said):
    with pytest.raises(UserError, match=said):
        build({**SECTION, **changes})
