"""Normalisation of the last dimension, in float32. `axes` are the logical axes of the gain: the last dimension, or the last few."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.layers.params import declare
from taxonomy.registry import component


class _Norm(nn.Module, kw_only=True):
    """What norms share. `unit_offset` stores the gain as its offset from one, so that weight decay pulls it to one, not zero."""

    gain: bool = True
    unit_offset: bool = False

    def _scaled(self, y: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        if not self.gain:
            return y
        shape = y.shape[-len(axes) :]
        if self.unit_offset:
            return y * (1.0 + declare(self, "scale", shape, axes, "bias"))
        return y * declare(self, "scale", shape, axes, "gain")


@component("layernorm", kind="norm", paper="Ba et al. 2016, arXiv:1607.06450")
class LayerNorm(_Norm):
    """Subtract the mean, divide by the standard deviation, multiply by a gain and, with `bias`, add a bias."""

    eps: float
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, axes: tuple[str, ...] = ("embed",)) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y = self._scaled(y, axes)
        if self.bias:
            y = y + declare(self, "bias", x.shape[-len(axes) :], axes, "bias")
        return y.astype(x.dtype)


@component("rmsnorm", kind="norm", paper="Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4")
class RMSNorm(_Norm):
    """Divide by the root mean square and multiply by a gain; no mean, no bias."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array, axes: tuple[str, ...] = ("embed",)) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return self._scaled(y, axes).astype(x.dtype)
