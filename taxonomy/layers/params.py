"""The one way to declare a parameter, and the projections that use it.

A declaration says shape, logical axes, role and fan once; sharding, counting, initialisation and FLOPs are derived from it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from taxonomy import registry, sharding
from taxonomy.layers.parametrizations import spread
from taxonomy.registry import Component

# What a parameter is for. Initialisers, optimizers and accounting treat parameters by role.
MATRIX_ROLES = ("query", "key", "value", "mlp", "residual", "router", "output")
ROLES = (*MATRIX_ROLES, "embedding", "position", "relative", "gain", "bias", "selection")


class Declared(nn.LogicallyPartitioned):
    """A parameter with its logical axes, role and fans; the box that `model.init` returns.

    growth_in, growth_out: how many times those of a base model the fans are, see `parametrizations`.
    """

    role: str = struct.field(default="", pytree_node=False)
    fan_in: int = struct.field(default=0, pytree_node=False)
    fan_out: int = struct.field(default=0, pytree_node=False)
    growth_in: float = struct.field(default=1.0, pytree_node=False)
    growth_out: float = struct.field(default=1.0, pytree_node=False)


@struct.dataclass
class Turned:
    """A kernel of a shape, stored for `project` alone with its outputs first: so it is read fastest for few rows on CPU."""

    kernel_OI: jax.Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def turned(declared: Declared, kernel: jax.Array) -> jax.Array | Turned:
    """A declared kernel as `Turned` if only `project` reads it, else as it is; leading axes of layers stay in front."""
    # Experts are multiplied in groups, tracks side by side; what makes heads of latents is also multiplied the other way round.
    if declared.role not in ("query", "key", "value", "mlp", "residual") or {"experts", "tracks", "latent"} & set(declared.names):
        return kernel
    layers = declared.names.count("layers")
    kernel_OI = kernel.reshape(*kernel.shape[:layers], declared.fan_in, -1).swapaxes(-1, -2)
    return Turned(kernel_OI, kernel.shape[layers:])


def declare(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    role: str,
    init: Component | None = None,
    inputs: int = 1,
    experts: int | None = None,
) -> jax.Array:
    """Declares a float32 parameter of `module`. The first `inputs` dimensions are the fan-in; tables (V, D) have fan-in D.

    With `experts` there is one for each of them, on a leading axis.
    """
    if module.has_variable("params", name) and isinstance(stored := module.get_variable("params", name), Turned):
        return stored
    table = role in ("embedding", "position", "output")
    inward, outward = (slice(-1, None), slice(-1)) if table else (slice(inputs), slice(inputs, None))
    fan_in, fan_out = math.prod(shape[inward]), math.prod(shape[outward])
    names, sizes = (axes, shape) if experts is None else (("experts", *axes), (experts, *shape))

    def create(key):
        growth_in = growth_out = 1.0
        if role == "gain":
            value = jnp.ones(sizes, jnp.float32)
        elif role in ("bias", "selection"):
            value = jnp.zeros(sizes, jnp.float32)
        else:
            initial = registry.instantiate(init)
            growth_in, growth_out = (initial.growth(axes[side], shape[side]) for side in (inward, outward))
            value = initial(key, sizes, role, fan_in / growth_in, fan_out / growth_out)
            if growth_in != 1.0:
                value = spread(role, growth_in) * value
        fans = {"fan_in": fan_in, "fan_out": fan_out, "growth_in": growth_in, "growth_out": growth_out}
        return Declared(value, names, role=role, **fans)

    return module.param(name, create)


def project(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, inputs: int = 1) -> jax.Array:
    """Contracts the last `inputs` dimensions of x (B, T, ...) with the first of the kernel, in x's dtype.

    Tokens are flattened to one dimension first: that keeps all three matrix products of training on the fast path on CPU and
    changes nothing on accelerators. Where devices have parts of the sequence, no dimension of all tokens could keep its place.
    """
    lead = x.shape[: x.ndim - inputs]
    tokens = lead if len(lead) == 2 and sharding.place("time", lead[1]) else (-1,)
    x_NI = x.reshape(*tokens, math.prod(x.shape[x.ndim - inputs :]))
    if isinstance(kernel, Turned):
        # The barrier keeps XLA from multiplying in the other order, which would take this away.
        y_NO = jax.lax.optimization_barrier(kernel.kernel_OI.astype(x.dtype) @ x_NI.T).T
    else:
        y_NO = x_NI @ kernel.astype(x.dtype).reshape(x_NI.shape[-1], -1)
    if bias is not None:
        y_NO = y_NO + bias.astype(x.dtype).reshape(-1)
    return y_NO.reshape(*lead, *kernel.shape[inputs:])


def dropout(module: nn.Module, x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Zeroes elements with probability `rate` while training and scales the rest by 1 / (1 - rate)."""
    if not train or rate == 0.0:
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
