"""Feed-forward sublayers, against PyTorch's activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.layers.context import Context

F = torch.nn.functional
PLAIN = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "solu": lambda x: x * F.softmax(x, -1),
}
GATED = {
    "glu": torch.sigmoid,
    "reglu": F.relu,
    "geglu": F.gelu,
    "swiglu": F.silu,
}
CONTEXT = Context(jnp.zeros((2, 3), jnp.int32))
X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32) * 2


def sublayer(sentence: str):
    scope = spec.Scope("mlp", {"d_model": 8}, {"initializer": "normal(std=1)"})
    return registry.instantiate(spec.resolve(sentence, ("feedforward",), scope))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", [*PLAIN, *GATED])
def test_sublayers_compute_their_formula(name, bias, random_params):
    module = sublayer(f"{name}(d_ff=20, bias={bias})")
    params = random_params(module, X, CONTEXT)
    p = {k: torch.tensor(np.asarray(v)) for k, v in params.items()}
    expected_names = {"up", "down", *(["gate"] if name in GATED else [])}
    assert set(params) == expected_names | ({f"{n}_bias" for n in expected_names} if bias else set())

    def linear(x, projection):
        return x @ p[projection] + p.get(f"{projection}_bias", 0)

    x = torch.tensor(X)
    hidden = PLAIN[name](linear(x, "up")) if name in PLAIN else GATED[name](linear(x, "gate")) * linear(x, "up")
    np.testing.assert_allclose(module.apply({"params": params}, X, CONTEXT), linear(hidden, "down"), rtol=1e-5, atol=2e-5)


def test_geglu_takes_the_tanh_form_where_asked(random_params):
    exact, approximate = sublayer("geglu(d_ff=20)"), sublayer("geglu(d_ff=20, approximate=True)")
    params = random_params(exact, X, CONTEXT)
    p = {k: torch.tensor(np.asarray(v)) for k, v in params.items()}
    x = torch.tensor(X)
    expected = (F.gelu(x @ p["gate"], approximate="tanh") * (x @ p["up"])) @ p["down"]
    found = approximate.apply({"params": params}, X, CONTEXT)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(found - exact.apply({"params": params}, X, CONTEXT)).max() > 1e-4


@pytest.mark.parametrize("name", ["solu", "gelu"])
def test_a_norm_on_the_hidden_layer(name, random_params):
    module = sublayer(f"{name}(d_ff=20, inner_norm=layernorm(eps=1e-5))")
    params = random_params(module, X, CONTEXT)
    assert params["inner_norm"]["scale"].shape == (20,)
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params)
    hidden = PLAIN[name](torch.tensor(X) @ p["up"])
    hidden = F.layer_norm(hidden, (20,), p["inner_norm"]["scale"], p["inner_norm"]["bias"], 1e-5)
    np.testing.assert_allclose(module.apply({"params": params}, X, CONTEXT), hidden @ p["down"], rtol=1e-5, atol=1e-5)


def test_time_steps_do_not_meet(random_params):
    module = sublayer("swiglu(d_ff=20)")
    params = random_params(module, X, CONTEXT)
    whole = module.apply({"params": params}, X, CONTEXT)
    np.testing.assert_allclose(module.apply({"params": params}, X[:, 1:2], CONTEXT), whole[:, 1:2], rtol=1e-6, atol=1e-6)


def test_compute_dtype_is_that_of_the_stream(random_params):
    for name in (*PLAIN, *GATED):
        module = sublayer(f"{name}(d_ff=20, bias=True)")
        shapes = jax.eval_shape(lambda m=module: m.init(jax.random.key(0), X, CONTEXT))
        out = jax.eval_shape(lambda v, m=module: m.apply(v, jnp.asarray(X, jnp.bfloat16), CONTEXT), shapes)
        assert out.dtype == jnp.bfloat16, name


def test_hidden_width_is_checked():
    with pytest.raises(UserError, match="d_ff=-8 must be at least 1"):
        sublayer("gelu(d_ff=-d_model)")


def test_clamped_swiglu_is_that_of_transformers_gpt_oss(random_params):
    from transformers.models.gpt_oss import modeling_gpt_oss as modeling

    config = modeling.GptOssConfig(hidden_size=8, intermediate_size=20, num_local_experts=1)
    experts = modeling.GptOssExperts(config)
    module = sublayer(f"clamped_swiglu(d_ff=20, limit={experts.limit / 4}, alpha={experts.alpha})")
    experts.limit /= 4  # low enough to matter
    gate_up = 3 * torch.tensor(np.random.default_rng(1).standard_normal((6, 40)), dtype=torch.float32)
    assert (gate_up.abs() > experts.limit).sum() > 20
    expected = experts._apply_gate(gate_up)

    class Given(type(module)):
        """The projections are given instead of computed."""

        def _expand(self, x, name, groups):
            return jnp.asarray(gate_up[:, 0::2] if name == "gate" else gate_up[:, 1::2])

    fields = {name: getattr(module, name) for name in ("d_ff", "limit", "alpha", "initializer")}
    np.testing.assert_allclose(Given(**fields).hidden(None, None), expected, rtol=1e-5, atol=1e-5)
