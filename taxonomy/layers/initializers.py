"""How parameters start: each initialiser is told a parameter's role and fans."""

import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.registry import Init, component, instantiate


def _draw(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    return std * jax.random.normal(key, shape, jnp.float32)


class Initializer:
    """Initial values of a parameter, given its shape, role and fans."""

    def growth(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> float:
        """How many times as large these axes are as where the values are meant for."""
        return 1.0


@component("normal", kind="init", paper="Radford et al. 2019 (residual_std: 'scaled by 1/sqrt(N)', section 2.3)")
@dataclasses.dataclass(frozen=True)
class Normal(Initializer):
    """Normal with one standard deviation; projections into the residual stream, tables and the head may have their own."""

    std: float
    residual_std: float | None = None
    embedding_std: float | None = None
    position_std: float | None = None
    output_std: float | None = None

    def __call__(self, key: jax.Array, shape: tuple[int, ...], role: str, fan_in: float, fan_out: float) -> jax.Array:
        own = getattr(self, f"{role}_std", None)
        return _draw(key, shape, self.std if own is None else own)


@component("fan_in", kind="init", paper="LeCun et al. 1998; Chowdhery et al. 2022, arXiv:2204.02311, section 5")
@dataclasses.dataclass(frozen=True)
class FanIn(Initializer):
    """Normal with variance scale / fan_in; embeddings N(0, embedding_std)."""

    scale: float = 1.0
    embedding_std: float = 1.0
    position_std: float = 0.02

    def __call__(self, key: jax.Array, shape: tuple[int, ...], role: str, fan_in: float, fan_out: float) -> jax.Array:
        std = {"embedding": self.embedding_std, "position": self.position_std}.get(role, (self.scale / fan_in) ** 0.5)
        return _draw(key, shape, std)


@component("xavier", kind="init", paper="Glorot & Bengio 2010")
@dataclasses.dataclass(frozen=True)
class Xavier(Initializer):
    """Normal with variance 2 * gain / (fan_in + fan_out); embeddings N(0, embedding_std)."""

    gain: float = 1.0
    embedding_std: float = 0.02

    def __call__(self, key: jax.Array, shape: tuple[int, ...], role: str, fan_in: float, fan_out: float) -> jax.Array:
        table = role in ("embedding", "position")
        return _draw(key, shape, self.embedding_std if table else (2.0 * self.gain / (fan_in + fan_out)) ** 0.5)


@component("depth_scaled", kind="init", paper="Wang et al. 2022, arXiv:2203.00555, Figure 2")
@dataclasses.dataclass(frozen=True)
class DepthScaled(Initializer):
    """Another initialiser with the value, feed-forward and output projections multiplied by a gain (DeepNorm's beta)."""

    base: Init
    gain: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], role: str, fan_in: float, fan_out: float) -> jax.Array:
        value = instantiate(self.base)(key, shape, role, fan_in, fan_out)
        return value * self.gain if role in ("value", "mlp", "residual") else value

    def growth(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> float:
        return instantiate(self.base).growth(axes, shape)
