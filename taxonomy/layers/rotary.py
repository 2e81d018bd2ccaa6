"""Rotary positions, and how their frequencies are changed to reach longer contexts."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from taxonomy import registry
from taxonomy.layers.context import Context
from taxonomy.layers.positions import NoPosition
from taxonomy.ops.masks import AttentionMask
from taxonomy.registry import Annotated, Component, component, formula

Scaling = Annotated[Component, ("rope_scaling",)]


@component("rope", kind="position", paper="Su et al. 2021, arXiv:2104.09864, section 3.2")
class RotaryPosition(NoPosition):
    """Rotate pairs of query and key features by angles proportional to the position.

    Pairs are (i, i + dims/2), or neighbours (2i, 2i+1) when `interleaved`; only the first `dims` features are rotated.
    """

    theta: float = 10000.0
    dims: int | None = None
    interleaved: bool = False
    scaling: Scaling | None = None

    called = "rope"

    def check(self) -> None:
        if self.dims is not None and (self.dims < 2 or self.dims % 2):
            raise ValueError(f"dims={self.dims} must be even and at least 2")

    @property
    def sharpness(self) -> float:
        return self._scaling().sharpness

    def check_heads(self, mask: AttentionMask, **width: int) -> None:
        ((field, size),) = width.items()
        dims = self.dims or size
        if dims > size or dims % 2:
            raise ValueError(f"{self.called} rotates {dims} dimensions; {field}={size} allows an even number up to it")

    def attend(self, q_BTHK: jax.Array, k_BTGK: jax.Array, context: Context, scale: float):
        return self.rotate(q_BTHK, context.positions_BT), self.rotate(k_BTGK, context.positions_BT), None

    def rotate(self, x_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Queries or keys at their positions."""
        dims = self.dims or x_BTHK.shape[-1]
        scaling = self._scaling()
        angle = positions_BT[:, :, None, None].astype(jnp.float32) * scaling.frequencies(self.theta, dims)
        cos, sin = scaling.amplitude * jnp.cos(angle), scaling.amplitude * jnp.sin(angle)
        x, rest = x_BTHK[..., :dims].astype(jnp.float32), x_BTHK[..., dims:]
        if self.interleaved:
            pairs = x.reshape(*x.shape[:-1], dims // 2, 2)
            a, b = pairs[..., 0], pairs[..., 1]
            y = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
        else:
            a, b = jnp.split(x, 2, -1)
            y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
        y = y.astype(x_BTHK.dtype)
        return jnp.concatenate([y, rest], -1) if rest.shape[-1] else y

    def _scaling(self) -> "RopeScaling":
        return RopeScaling() if self.scaling is None else registry.instantiate(self.scaling)


@component("xpos", kind="position", paper="Sun et al. 2022, arXiv:2212.10554, section 3.2 (microsoft/torchscale)")
class DecayingRotaryPosition(RotaryPosition):
    """Rotary, with products that decay with the distance: by ((2i/dims + 0.4) / 1.4)^(distance / base) in pair i.

    Queries shrink and keys grow from the position `center` on, which does not matter but for the range of numbers.
    """

    base: float = 512.0
    center: float = formula("context / 2")

    called = "xpos"

    def attend(self, q_BTHK: jax.Array, k_BTGK: jax.Array, context: Context, scale: float):
        q_BTHK, k_BTGK, _ = super().attend(q_BTHK, k_BTGK, context, scale)
        return self._scaled(q_BTHK, context.positions_BT, 1.0), self._scaled(k_BTGK, context.positions_BT, -1.0), None

    def _scaled(self, x_BTHK: jax.Array, positions_BT: jax.Array, sign: float) -> jax.Array:
        dims = self.dims or x_BTHK.shape[-1]
        decay = jnp.log((jnp.arange(0, dims, 2) / dims + 0.4) / 1.4)
        exponent = sign * (positions_BT[:, :, None, None].astype(jnp.float32) - self.center) / self.base
        factor = jnp.exp(exponent * (jnp.repeat(decay, 2) if self.interleaved else jnp.tile(decay, 2)))
        return jnp.concatenate([(x_BTHK[..., :dims] * factor).astype(x_BTHK.dtype), x_BTHK[..., dims:]], -1)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """The frequencies of rotary pairs, and what rotated features and scores are multiplied by; as published if nothing changes."""

    amplitude = 1.0
    sharpness = 1.0

    def frequencies(self, theta: float, dims: int) -> jax.Array:
        """Radians per token of each pair, (dims / 2,)."""
        return theta ** (-jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)

    def check(self) -> None:
        factor = getattr(self, "factor", 1.0)
        if factor < 1:
            raise ValueError(f"factor={factor} must be at least 1")


@component("linear", kind="rope_scaling", paper="Chen et al. 2023, arXiv:2306.15595 (position interpolation)")
@dataclasses.dataclass(frozen=True)
class LinearScaling(RopeScaling):
    """Divide all frequencies by `factor`, as if positions were closer together."""

    factor: float

    def frequencies(self, theta: float, dims: int) -> jax.Array:
        return super().frequencies(theta, dims) / self.factor


@component("ntk", kind="rope_scaling", paper="bloc97 2023 (NTK-aware scaled RoPE); Peng et al. 2023, arXiv:2309.00071, section 3.1")
@dataclasses.dataclass(frozen=True)
class NTKScaling(RopeScaling):
    """Raise theta so that the lowest frequency is divided by `factor` and the highest is kept."""

    factor: float

    def frequencies(self, theta: float, dims: int) -> jax.Array:
        return super().frequencies(theta * self.factor ** (dims / max(dims - 2, 1)), dims)


@component("by_parts", kind="rope_scaling", paper="Peng et al. 2023, arXiv:2309.00071, section 3.2; Grattafiori et al. 2024")
@dataclasses.dataclass(frozen=True)
class ByPartsScaling(RopeScaling):
    """Divide long wavelengths by `factor`, keep short ones, and blend between `low` and `high` turns of the first context."""

    factor: float
    low: float
    high: float
    original_context: int

    def frequencies(self, theta: float, dims: int) -> jax.Array:
        frequency = super().frequencies(theta, dims)
        turns = self.original_context * frequency / (2 * math.pi)
        # Where both are the same, all that turns more often is kept.
        kept = jnp.clip((turns - self.low) / max(self.high - self.low, 1e-9), 0.0, 1.0)
        return frequency * (kept + (1 - kept) / self.factor)


@component("yarn", kind="rope_scaling", paper="Peng et al. 2023, arXiv:2309.00071, sections 3.2 and 3.4")
@dataclasses.dataclass(frozen=True)
class YaRNScaling(RopeScaling):
    """Divide long wavelengths by `factor`, keep short ones, blend along the pairs between, and sharpen the attention.

    The blend runs over the pairs that turn `fast` to `slow` times in the first context, rounded outwards where `rounded`.
    `magnitude` multiplies rotated features; by default 0.1 ln(factor) + 1. Where heads have other features too, `sharpening`
    multiplies whole scores, by (0.1 sharpening ln(factor) + 1)^2 (DeepSeek-AI 2024, arXiv:2405.04434, section 3.1.4).
    """

    factor: float
    original_context: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float | None = None
    rounded: bool = True
    sharpening: float = 0.0

    @property
    def sharpness(self) -> float:
        return (0.1 * self.sharpening * math.log(self.factor) + 1) ** 2

    @property
    def amplitude(self) -> float:
        return 0.1 * math.log(self.factor) + 1 if self.magnitude is None else self.magnitude

    def frequencies(self, theta: float, dims: int) -> jax.Array:
        def pair(turns: float) -> float:
            return dims * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = pair(self.fast), pair(self.slow)
        if self.rounded:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dims - 1)
        ramp = jnp.clip((jnp.arange(dims // 2, dtype=jnp.float32) - first) / max(last - first, 1e-3), 0.0, 1.0)
        frequency = super().frequencies(theta, dims)
        return frequency * (1 - ramp + ramp / self.factor)
