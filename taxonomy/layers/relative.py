"""Positions that attention scores know as distances between query and key."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import sharding
from taxonomy.layers.context import Context
from taxonomy.layers.params import declare, project
from taxonomy.layers.positions import NoPosition, sinusoids
from taxonomy.ops.attention import Bias
from taxonomy.ops.masks import AttentionMask
from taxonomy.registry import Init, component, formula


@component("alibi", kind="position", paper="Press et al. 2021, arXiv:2108.12409, section 3")
class ALiBi(NoPosition):
    """Subtract from each score the distance to the key times a slope that differs by head, times `scale`."""

    scale: float = 1.0

    def attend(self, q_BTHK: jax.Array, k_BTGK: jax.Array, context: Context, scale: float):
        return q_BTHK, k_BTGK, self.bias(q_BTHK.shape[2])

    def bias(self, heads: int) -> Bias:
        """What is added to scores."""
        slopes_H = self.scale * jnp.asarray(alibi_slopes(heads), jnp.float32)

        def add(q_BTHK, q_positions_BT, k_positions_BS, offset, slopes_H):
            distance = q_positions_BT[:, None, :, None] - k_positions_BS[:, None, None, :]
            return -slopes_H[None, :, None, None] * jnp.abs(distance).astype(jnp.float32)

        return Bias(add, (slopes_H,), (("heads",),))


def alibi_slopes(heads: int) -> list[float]:
    """The geometric slopes of ALiBi; for a head count that is no power of two, every other slope of the next one is added."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    extra = [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * (heads - below), 2)]
    return slopes + extra


@component("t5_bias", kind="position", paper="Raffel et al. 2019, arXiv:1910.10683, section 2.1")
class T5Bias(NoPosition):
    """Add to each score a learned number for its head and the bucket of its distance; distant buckets are wider.

    Half of the buckets are for keys after the query when `bidirectional`; otherwise those share the bucket of distance 0. With
    `shared` (as in the paper) all layers of a stack have one table; otherwise each has its own.
    """

    initializer: Init
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False
    shared: bool = False

    def check(self) -> None:
        exact = self.buckets // (4 if self.bidirectional else 2)
        if exact < 1 or self.max_distance <= exact:
            raise ValueError(f"max_distance={self.max_distance} must be above the {exact} distances with buckets of their own")

    def attend(self, q_BTHK: jax.Array, k_BTGK: jax.Array, context: Context, scale: float):
        table_NH = context.relative_NH if self.shared else self.table(q_BTHK.shape[2])

        def add(q_BTHK, q_positions_BT, k_positions_BS, offset, table_NH):
            if offset is None:
                bucket_BTS = self.bucket(k_positions_BS[:, None, :] - q_positions_BT[:, :, None])
                return table_NH[bucket_BTS].transpose(0, 3, 1, 2)
            # A number for each distance, and the same scores for all rows. Devices with rows of their own have a copy each, so that
            # what they sum of its gradient are those numbers.
            (rows, time, heads, _), keys = q_BTHK.shape, k_positions_BS.shape[1]
            copies = sharding.over(sharding.place("batch", rows))
            table_CNH = jnp.broadcast_to(table_NH, (copies, *table_NH.shape))
            table_CNH = sharding.constrained(table_CNH, ("batch", None, "heads"))
            bias_CHR = table_CNH[:, self.bucket(-_distances(offset, time, keys))].transpose(0, 2, 1)
            bias_CHTS = _shifted(jnp.broadcast_to(bias_CHR[:, :, None], (copies, heads, time, time + keys - 1)), keys)
            return jnp.repeat(bias_CHTS, rows // copies, axis=0)

        return q_BTHK, k_BTGK, Bias(add, (table_NH,), ((None, "heads"),))

    @nn.compact
    def table(self, heads: int) -> jax.Array:
        """The learned numbers, float32 (buckets, heads)."""
        return declare(self, "table", (self.buckets, heads), (None, "heads"), "relative", self.initializer)

    def bucket(self, ahead: jax.Array) -> jax.Array:
        """The bucket of a key that stands `ahead` of its query (negative: behind)."""
        buckets, start = self.buckets, 0
        if self.bidirectional:
            buckets //= 2
            start = jnp.where(ahead > 0, buckets, 0)
            distance = jnp.abs(ahead)
        else:
            distance = jnp.maximum(-ahead, 0)
        exact = buckets // 2
        growth = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        far = jnp.minimum(exact + (growth * (buckets - exact)).astype(jnp.int32), buckets - 1)
        return start + jnp.where(distance < exact, distance, far)


@component(
    "transformer_xl", kind="position", paper="Dai et al. 2019, arXiv:1901.02860, section 3.3; Rae et al. 2021, arXiv:2112.11446"
)
class TransformerXLPosition(NoPosition):
    """Add to each score the product of the query with a projected sinusoid of the distance, and learned biases for both products.

    With R the sinusoids of the distance i - j: (q_i + u) . k_j + (q_i + v) . (W R_{i-j}). With `parts` also (q_i + b) . s, with
    one learned vector s for keys of the query's own part of the input, and another for keys of other parts; `types` say which part
    a token belongs to (Yang et al. 2019, arXiv:1906.08237, section 2.5).
    """

    initializer: Init
    base: float = 10000.0
    parts: bool = False
    d_model: int = formula("d_model")

    def check_heads(self, mask: AttentionMask, **width: int) -> None:
        if self.parts and (mask.causal or mask.prefix):
            raise ValueError("transformer_xl(parts=True) needs a mask that looks both ways, such as mask=full")

    @nn.compact
    def attend(self, q_BTHK: jax.Array, k_BTGK: jax.Array, context: Context, scale: float):
        heads, head_dim = q_BTHK.shape[2:]
        axes = ("heads", "head_dim")
        # No matrix role: it multiplies distances, not tokens.
        kernel = declare(self, "kernel", (self.d_model, heads, head_dim), ("embed", *axes), "relative", self.initializer)
        u_HK = declare(self, "content_bias", (heads, head_dim), axes, "bias").astype(q_BTHK.dtype)
        v_HK = declare(self, "position_bias", (heads, head_dim), axes, "bias").astype(q_BTHK.dtype)
        if self.parts:
            b_HK = declare(self, "part_bias", (heads, head_dim), axes, "bias").astype(q_BTHK.dtype)
            s_NHK = declare(self, "parts", (2, heads, head_dim), (None, *axes), "relative", self.initializer).astype(q_BTHK.dtype)

        reach = context.cache_length or context.reach

        def add(q_BTHK, q_positions_BT, k_positions_BS, offset, kernel, u_HK, v_HK):
            # The queries here have u already.
            q_BTHK = q_BTHK + (v_HK - u_HK)
            time, keys = q_BTHK.shape[1], k_positions_BS.shape[1]
            if offset is None:
                highest = (reach or keys) - 1
                distance_R = jnp.arange(-highest, highest + 1)
            else:
                distance_R = _distances(offset, time, keys)
            waves_RD = sinusoids(distance_R, self.d_model, self.base).astype(q_BTHK.dtype)
            r_RHK = project(waves_RD[None], kernel)[0]
            scores_BHTR = scale * jnp.einsum("bthk,rhk->bhtr", q_BTHK, r_RHK, preferred_element_type=jnp.float32)
            if offset is not None:
                return _shifted(scores_BHTR, keys)
            distance_BTS = q_positions_BT[:, :, None] - k_positions_BS[:, None, :]
            index_BTS = jnp.clip(distance_BTS + highest, 0, 2 * highest)
            return jnp.take_along_axis(scores_BHTR, index_BTS[:, None], axis=-1)

        def add_with_parts(q_BTHK, q_positions_BT, k_positions_BS, offset, kernel, u_HK, v_HK, b_HK, s_NHK, types_BT):
            scores_BHTN = scale * jnp.einsum("bthk,nhk->bhtn", q_BTHK + (b_HK - u_HK), s_NHK, preferred_element_type=jnp.float32)
            # Masks that look both ways are never cut into chunks: all tokens are queries and keys here.
            other_BTS = types_BT[:, :, None] != types_BT[:, None, :]
            parts_BHTS = jnp.where(other_BTS[:, None], scores_BHTN[..., 1:], scores_BHTN[..., :1])
            return add(q_BTHK, q_positions_BT, k_positions_BS, offset, kernel, u_HK, v_HK) + parts_BHTS

        of_heads = ("heads", None)
        bias = Bias(add, (kernel, u_HK, v_HK), ((None, *of_heads), of_heads, of_heads))
        # All tokens of one part: the same number for all keys.
        if self.parts and context.types_BT is not None:
            arrays, axes = (b_HK, s_NHK, context.types_BT), (of_heads, (None, *of_heads), ("batch", None))
            bias = Bias(add_with_parts, bias.arrays + arrays, bias.axes + axes)
        return q_BTHK + u_HK, k_BTGK, bias

    def distance_flops(self, mask: AttentionMask, context: int, heads: int, head_dim: int) -> float:
        """A product of every query with the distances it needs. W R itself is computed once for a whole batch: not counted."""
        return 2 * heads * head_dim * (mask.mean_span(context) if mask.causal else 2 * context - 1)


def _distances(offset: int, time: int, keys: int) -> jax.Array:
    """From each of `time` queries to each of `keys` keys there are these, the farthest behind first; see `Bias` for the offset."""
    return offset + time - 1 - jnp.arange(time + keys - 1)


def _shifted(scores_BHTR: jax.Array, keys: int) -> jax.Array:
    """From columns of falling distance to columns of keys: row t takes its columns from T - 1 - t on. No gather is needed."""
    batch, heads, time, columns = scores_BHTR.shape
    if time == 1:
        return scores_BHTR
    flat = scores_BHTR.reshape(batch, heads, time * columns)[..., time - 1 : time * columns - 1]
    return flat.reshape(batch, heads, time, columns - 1)[..., :keys]
