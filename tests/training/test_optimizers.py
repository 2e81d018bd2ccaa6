"""Every optimizer against its published update written out in numpy, and stacked layers against layers one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry
from taxonomy.errors import UserError
from taxonomy.layers.params import Declared
from taxonomy.training.optimizers import decay_mask, roles
from taxonomy.training.step import Trainer

RATES = (0.1, 0.03, 0.2)
LAYERS, D, H, K, F, V = 2, 6, 2, 4, 10, 9


def declared(shape, names, role, fan_in=0):
    return Declared(jax.ShapeDtypeStruct(shape, jnp.float32), names, role=role, fan_in=fan_in)


# One parameter of each kind: stacked, with several input or output axes, nested repeats, tables, gains and biases.
TREE = {
    "query": declared((LAYERS, D, H, K), ("layers", "embed", "heads", "head_dim"), "query", D),
    "out": declared((LAYERS, H, K, D), ("layers", "heads", "head_dim", "embed"), "residual", H * K),
    "key": declared((D, 1, K), ("embed", "kv_heads", "head_dim"), "key", D),
    "up": declared((3, LAYERS, D, F), ("layers", "layers", "embed", "mlp"), "mlp", D),
    "down": declared((F, D), ("mlp", "embed"), "residual", F),
    "table": declared((V, D), ("vocab", "embed"), "embedding", D),
    "positions": declared((7, D), (None, "embed"), "position", D),
    "head": declared((V, D), ("vocab", "embed"), "output", D),
    "stacked_gain": declared((LAYERS, D), ("layers", "embed"), "gain"),
    "gain": declared((D,), ("embed",), "gain"),
    "stacked_bias": declared((LAYERS, H, K), ("layers", "heads", "head_dim"), "bias"),
    "bias": declared((D,), ("embed",), "bias"),
}
IS_DECLARED = {"is_leaf": lambda x: isinstance(x, Declared)}
DECAYED = {"query", "out", "key", "up", "down", "table", "positions", "head"}
# The input axes of the projections inside the stack, as einsum letters, layers before them.
ORTHOGONAL = {"query": (1, 1), "out": (1, 2), "key": (0, 1), "up": (2, 1), "down": (0, 1)}
GENERATOR = np.random.default_rng(0)
START = {name: GENERATOR.standard_normal(d.value.shape) for name, d in TREE.items()}
GRADIENTS = [
    {name: GENERATOR.standard_normal(d.value.shape) * 10.0 ** -(i % 3) for i, (name, d) in enumerate(TREE.items())} for _ in RATES
]


def optimizer(sentence):
    return registry.create("optimizer", sentence, "config.train.optimizer")


def run(sentence, tree=TREE, start=START, gradients=GRADIENTS):
    """The parameters after each step."""
    one = optimizer(sentence)
    transform = one.transform(tree)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), start)
    state, found = transform.init(params), []

    @jax.jit
    def step(params, state, gradient, rate):
        updates, state = transform.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, one.scaled(updates, params, rate, tree)), state

    for rate, gradient in zip(RATES, gradients, strict=True):
        gradient = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), gradient)
        params, state = step(params, state, gradient, jnp.float32(rate))
        found.append(params)
    return found


def expect(sentence, update):
    """`update(name, parameter, gradients so far, rates so far)` is the next value of a parameter, in float64."""
    found = run(sentence)
    for name in TREE:
        value = START[name]
        for step, rate in enumerate(RATES):
            value = update(name, value, [g[name] for g in GRADIENTS[: step + 1]], rate)
            message = f"{name}, step {step + 1}"
            np.testing.assert_allclose(found[step][name], value, rtol=2e-5, atol=2e-5, err_msg=message)


def adam(gradients, b1, b2, eps=1e-8):
    """The direction of Adam (arXiv:1412.6980, algorithm 1) after these gradients."""
    m = v = 0.0
    for g in gradients:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    t = len(gradients)
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def test_roles_and_decay_follow_the_declaration():
    assert roles(TREE)["up"] == "mlp" and roles(TREE)["positions"] == "position"
    assert {name for name, decays in decay_mask(TREE).items() if decays} == DECAYED


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adamw(decay):
    def update(name, value, gradients, rate):
        return value - rate * (adam(gradients, 0.8, 0.9, 1e-3) + decay * value * (name in DECAYED))

    expect(f"adamw(b1=0.8, b2=0.9, eps=1e-3, weight_decay={decay})", update)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_lion(decay):
    def update(name, value, gradients, rate):
        m = 0.0
        for g in gradients[:-1]:
            m = 0.7 * m + 0.3 * g
        direction = np.sign(0.8 * m + 0.2 * gradients[-1])
        return value - rate * (direction + decay * value * (name in DECAYED))

    expect(f"lion(b1=0.8, b2=0.7, weight_decay={decay})", update)


def rms(name, x):
    """The root mean square of each layer."""
    axes = tuple(range(TREE[name].names.count("layers"), x.ndim))
    return np.sqrt((x**2).mean(axes, keepdims=True))


def adafactor_steps(name, values, gradients, b1, decay):
    """The step of arXiv:1804.04235, algorithm 4 (whole second moments) at a rate of one, with momentum over the steps."""
    v = m = 0.0
    for t, (x, g) in enumerate(zip(values, gradients, strict=True), 1):
        b2 = 1 - t**-decay
        v = b2 * v + (1 - b2) * (g**2 + 1e-30)
        u = g / np.sqrt(v)
        u = u / np.maximum(1.0, rms(name, u)) * np.maximum(1e-3, rms(name, x))
        m = b1 * m + (1 - b1) * u
    return m


@pytest.mark.parametrize("b1", [0.0, 0.9])
@pytest.mark.parametrize("by_square", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 2.0])
def test_adafactor_with_whole_second_moments(b1, by_square, weight_decay):
    values = {}

    def update(name, value, gradients, rate):
        values.setdefault(name, []).append(value)
        shrink = (rate**2 if by_square else rate) * weight_decay * (name in DECAYED)
        return value - rate * adafactor_steps(name, values[name], gradients, b1, 0.7) - shrink * value

    expect(f"adafactor(b1={b1}, decay=0.7, factored=False, weight_decay={weight_decay}, decay_by_square={by_square})", update)


def test_adafactor_with_row_and_column_means():
    """arXiv:1804.04235, algorithm 4: the second moment of a matrix is the outer product of its means over their mean."""
    shape = (128, 130)
    tree = {"w": declared(shape, ("mlp", "embed"), "mlp", 128)}
    generator = np.random.default_rng(0)
    value = generator.standard_normal(shape)
    gradients = [{"w": generator.standard_normal(shape)} for _ in RATES]
    found = run("adafactor(decay=0.8)", tree, {"w": value}, gradients)
    row = column = 0.0
    for t, (rate, gradient) in enumerate(zip(RATES, gradients, strict=True), 1):
        g, b2 = gradient["w"], 1 - t**-0.8
        row = b2 * row + (1 - b2) * (g**2 + 1e-30).mean(1, keepdims=True)
        column = b2 * column + (1 - b2) * (g**2 + 1e-30).mean(0, keepdims=True)
        u = g / np.sqrt(row * column / row.mean())
        u = u / max(1.0, np.sqrt((u**2).mean()))
        value = value - rate * max(1e-3, np.sqrt((value**2).mean())) * u
        np.testing.assert_allclose(found[t - 1]["w"], value, rtol=2e-5, atol=2e-5)


def newton_schulz(m):
    """A matrix with the singular vectors of m and singular values near one (Jordan et al. 2024)."""
    wide = m if m.shape[0] <= m.shape[1] else m.T
    x = wide / np.linalg.norm(wide)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if wide is m else x.T


def orthogonalised(name, m):
    lead, inputs = ORTHOGONAL[name]
    fan_in = int(np.prod(m.shape[lead : lead + inputs]))
    flat = m.reshape(-1, fan_in, int(np.prod(m.shape[lead + inputs :])))
    return np.stack([newton_schulz(layer) for layer in flat]).reshape(m.shape), max(flat.shape[1:]) ** 0.5


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_muon(decay):
    beta, scale = 0.9, 0.3

    def update(name, value, gradients, rate):
        if name in ORTHOGONAL:
            m, t = 0.0, len(gradients)
            for g in gradients:
                m = beta * m + (1 - beta) * g
            ahead = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * gradients[-1] / (1 - beta**t)
            matrix, size = orthogonalised(name, ahead)
            direction = scale * size * matrix
        else:
            direction = adam(gradients, 0.8, 0.9)
        return value - rate * (direction + decay * value * (name in DECAYED))

    expect(f"muon(beta={beta}, weight_decay={decay}, b1=0.8, b2=0.9, scale={scale})", update)


def test_muon_makes_each_layer_orthogonal():
    """Not only equal to a formula: the update of every layer is a matrix whose singular values are all near one."""
    moved = run("muon(scale=1.0)")[0]
    for name, (lead, inputs) in ORTHOGONAL.items():
        update = (START[name] - np.asarray(moved[name])) / RATES[0]
        fan_in = int(np.prod(update.shape[lead : lead + inputs]))
        for layer in update.reshape(-1, fan_in, int(np.prod(update.shape[lead + inputs :]))):
            singular = np.linalg.svd(layer, compute_uv=False) / max(layer.shape) ** 0.5
            assert singular.min() > 0.6 and singular.max() < 1.3, name


SENTENCES = {
    "adafactor": ["adafactor", "adafactor(b1=0.9, factored=False, weight_decay=1.0, decay_by_square=True)"],
    "adamw": ["adamw(weight_decay=0.1)"],
    "lion": ["lion(weight_decay=0.1)"],
    "muon": ["muon(weight_decay=0.1)"],
}


def test_every_optimizer_is_tested():
    assert {entry.name for entry in registry.entries("optimizer")} == set(SENTENCES)


@pytest.mark.parametrize("sentence", [s for sentences in SENTENCES.values() for s in sentences])
def test_stacked_layers_move_as_layers_one_by_one(sentence):
    """What an optimizer does to a layer does not depend on whether it stands in a scanned repeat."""
    stacked = {name: d for name, d in TREE.items() if d.names[0] == "layers"}

    def layers(tree):
        return {(name, i): tree[name][i] for name in stacked for i in range(stacked[name].value.shape[0])}

    apart = {
        (name, i): declared(d.value.shape[1:], d.names[1:], d.role, d.fan_in)
        for name, d in stacked.items()
        for i in range(d.value.shape[0])
    }
    only = functools.partial(jax.tree.map, lambda a: a)
    pick = lambda tree: {name: tree[name] for name in stacked}  # noqa: E731
    # Layers of different size, so that a mean over all of them shows.
    start = {name: a * np.arange(1, a.shape[0] + 1).reshape(-1, *[1] * (a.ndim - 1)) for name, a in pick(START).items()}
    together = run(sentence, stacked, start, [pick(g) for g in GRADIENTS])
    alone = run(sentence, apart, layers(start), [layers(g) for g in GRADIENTS])
    for expected, found in zip(alone, together, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), layers(found), only(expected))


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("adamw(b1=1)", "b1=1.0 must be in [0, 1)"),
        ("adamw(b2=-0.1)", "b2=-0.1 must be in [0, 1)"),
        ("lion(weight_decay=-1)", "weight_decay=-1.0 must not be negative"),
        ("adamw(eps=-1e-8)", "eps=-1e-08 must not be negative"),
        ("muon(beta=2)", "beta=2.0 must be in [0, 1)"),
        ("sgd", "unknown optimizer 'sgd'"),
        ("adamw(beta1=0.9)", "no argument 'beta1'"),
    ],
)
def test_impossible_values_are_refused(sentence, said):
    with pytest.raises(UserError) as e:
        optimizer(sentence)
    assert said in str(e.value) and "config.train.optimizer" in str(e.value)


@pytest.mark.slow_by_family
@pytest.mark.parametrize("sentence", [s for sentences in SENTENCES.values() for s in sentences])
def test_every_moment_of_a_model_is_placed_like_its_parameter(family, tiny, sentence):
    """By shape and path: nothing that is as large as its parameter is replicated over a mesh."""
    from taxonomy import sharding

    one = tiny(family)
    trainer = Trainer(one.model(), optimizer(sentence), sharding.make_mesh("data:2,fsdp:2,tensor:2"))
    placed = dict(jax.tree_util.tree_flatten_with_path(trainer.shardings.params)[0])
    moments = 0
    for path, place in jax.tree_util.tree_flatten_with_path(trainer.shardings.opt_state)[0]:
        own = next((placed[path[i:]] for i in range(len(path)) if path[i:] in placed), None)
        leaf = functools.reduce(lambda node, key: key_of(node, key), path, trainer.abstract.opt_state)
        if own is not None and leaf.size > 1 and own.shard_shape(leaf.shape) != leaf.shape:
            assert place == own
            moments += 1
    assert moments >= 3


def key_of(node, key):
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            index = getattr(key, attribute)
            return getattr(node, index) if attribute == "name" else node[index]
    raise TypeError(key)
