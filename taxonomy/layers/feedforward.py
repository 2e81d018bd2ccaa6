"""Feed-forward sublayers: two projections around an activation, plain or gated."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, project
from taxonomy.ops import grouped_matmul
from taxonomy.ops.grouped_matmul import Groups
from taxonomy.registry import Init, Norm, component


class FeedForward(nn.Module, kw_only=True):
    """down(activation(up(x))), maybe with a norm before `down`; subclasses choose the activation.

    Where the context has groups, it is a stack of experts, every parameter has a leading axis for them, and rows come as groups
    say.
    """

    initializer: Init
    bias: bool = False
    inner_norm: Norm | None = None
    # Whether every hidden feature is activated for itself.
    elementwise = True

    def check(self) -> None:
        if self.d_ff < 1:
            raise ValueError(f"d_ff={self.d_ff} must be at least 1")

    def activate(self, x: jax.Array) -> jax.Array:
        raise TypeError("a subclass defines the activation")

    def hidden(self, x: jax.Array, groups: Groups | None) -> jax.Array:
        """The activated hidden layer, (..., F)."""
        return self.activate(self._expand(x, "up", groups))

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        h = self.hidden(x, context.groups)
        if self.inner_norm is not None:
            h = registry.instantiate(self.inner_norm, name="inner_norm")(h, ("mlp",))
        return self._projected(h, "down", "residual", ("mlp", "embed"), x.shape[-1], context.groups)

    def _expand(self, x: jax.Array, name: str, groups: Groups | None) -> jax.Array:
        return self._projected(x, name, "mlp", ("embed", "mlp"), self.d_ff, groups)

    def _projected(
        self, x: jax.Array, name: str, role: str, axes: tuple[str, str], outputs: int, groups: Groups | None
    ) -> jax.Array:
        experts = None if groups is None else groups.count
        kernel = declare(self, name, (x.shape[-1], outputs), axes, role, self.initializer, experts=experts)
        bias = declare(self, f"{name}_bias", (outputs,), axes[1:], "bias", experts=experts) if self.bias else None
        if groups is None:
            return project(x, kernel, bias)
        y = grouped_matmul.multiply(x, kernel, groups, axes)
        return y if bias is None else grouped_matmul.add(y, bias, groups, axes[1])


class GatedFeedForward(FeedForward, kw_only=True):
    """down(activation(gate(x)) * up(x)); subclasses choose the activation."""

    def hidden(self, x: jax.Array, groups: Groups | None) -> jax.Array:
        return self.gated(self._expand(x, "gate", groups), self._expand(x, "up", groups))

    def gated(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        return self.activate(gate) * up


@component("relu", kind="feedforward", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.3")
class ReLU(FeedForward):
    """max(0, x)."""

    d_ff: int
    activate = staticmethod(jax.nn.relu)


@component("relu2", kind="feedforward", paper="So et al. 2021, arXiv:2109.08668")
class SquaredReLU(FeedForward):
    """max(0, x) squared."""

    d_ff: int

    def activate(self, x: jax.Array) -> jax.Array:
        return jnp.square(jax.nn.relu(x))


@component("gelu", kind="feedforward", paper="Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2")
class GELU(FeedForward):
    """x times the normal distribution function of x, exact."""

    d_ff: int
    activate = staticmethod(functools.partial(jax.nn.gelu, approximate=False))


@component("gelu_tanh", kind="feedforward", paper="Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2")
class TanhGELU(FeedForward):
    """GELU by its tanh approximation."""

    d_ff: int
    activate = staticmethod(functools.partial(jax.nn.gelu, approximate=True))


@component("quick_gelu", kind="feedforward", paper="Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2")
class QuickGELU(FeedForward):
    """x sigmoid(1.702 x)."""

    d_ff: int

    def activate(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.sigmoid(1.702 * x)


@component("silu", kind="feedforward", paper="Elfwing et al. 2017, arXiv:1702.03118; Ramachandran et al. 2017, arXiv:1710.05941")
class SiLU(FeedForward):
    """x sigmoid(x), also called Swish."""

    d_ff: int
    activate = staticmethod(jax.nn.silu)


@component("solu", kind="feedforward", paper="Elhage et al. 2022, transformer-circuits.pub/2022/solu")
class SoLU(FeedForward):
    """x softmax(x) over the hidden layer, followed by a norm where `inner_norm` is given."""

    d_ff: int
    elementwise = False

    def activate(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.softmax(x.astype(jnp.float32), axis=-1).astype(x.dtype)


@component("glu", kind="feedforward", paper="Dauphin et al. 2016, arXiv:1612.08083; Shazeer 2020, arXiv:2002.05202, eq. 5")
class GLU(GatedFeedForward):
    """Gated by a sigmoid."""

    d_ff: int
    activate = staticmethod(jax.nn.sigmoid)


@component("reglu", kind="feedforward", paper="Shazeer 2020, arXiv:2002.05202, eq. 5")
class ReGLU(GatedFeedForward):
    """Gated by a ReLU."""

    d_ff: int
    activate = staticmethod(jax.nn.relu)


@component("geglu", kind="feedforward", paper="Shazeer 2020, arXiv:2002.05202, eq. 5")
class GEGLU(GatedFeedForward):
    """Gated by a GELU; `approximate` takes its tanh form."""

    d_ff: int
    approximate: bool = False

    def activate(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=self.approximate)


@component(
    "clamped_swiglu", kind="feedforward", paper="OpenAI 2025, arXiv:2508.10925; Abdin et al. 2024, arXiv:2404.14219 (gegelu)"
)
class ClampedSwiGLU(GatedFeedForward):
    """gate sigmoid(alpha gate) (up + 1), with the gate at most `limit` and up between -limit and limit."""

    d_ff: int
    limit: float
    alpha: float = 1.702

    def gated(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        gate, up = jnp.minimum(gate, self.limit), jnp.clip(up, -self.limit, self.limit)
        return gate * jax.nn.sigmoid(self.alpha * gate) * (up + 1)


@component("swiglu", kind="feedforward", paper="Shazeer 2020, arXiv:2002.05202, eqs. 5 and 6")
class SwiGLU(GatedFeedForward):
    """Gated by a SiLU."""

    d_ff: int
    activate = staticmethod(jax.nn.silu)
