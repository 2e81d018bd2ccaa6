"""Which keys a query may attend to: predicates on positions, composed by the attention op and never stored whole."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from taxonomy.registry import component, formula


@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """`allowed` says whether a query position sees a key position of the same document; the rest lets kernels skip work.

    causal: no query sees a later key.
    window: a query sees no key `window` or more positions before it; None when unbounded.
    ahead: a query sees no key more than `ahead` positions after it; None when unbounded.
    within: documents are cut into pieces of so many tokens, and no query sees a key of another piece; None when they are not.
    band: a query sees all that causal, window, ahead and within leave it, so that these say the mask to a kernel.
    prefix: a query also sees the keys of its document that the batch marks as its prefix.
    by_head: a head sees each allowed key as often as `times` says.
    ordered: the model reads an order of its tokens; where the batch gives one, no query sees past it, whatever its mask.
    """

    causal = False
    window = None
    within = None
    band = False
    prefix = False
    by_head = False
    ordered = False

    @property
    def ahead(self) -> int | None:
        return 0 if self.causal else None

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        """Elementwise on broadcastable integer arrays; returns booleans."""
        return jnp.broadcast_to(True, jnp.broadcast_shapes(q_position.shape, k_position.shape))

    def mean_span(self, context: int) -> float:
        """Keys a query sees, averaged over a document of `context` tokens."""
        return float(context)


@component("full", kind="mask", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.2")
@dataclasses.dataclass(frozen=True)
class Full(AttentionMask):
    """Every token sees every token of its document."""

    band = True


@component("causal", kind="mask", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3")
@dataclasses.dataclass(frozen=True)
class Causal(AttentionMask):
    """A token sees itself and what came before."""

    causal = True
    band = True

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        return k_position <= q_position

    def mean_span(self, context: int) -> float:
        return (context + 1) / 2


@component("prefix", kind="mask", paper="Liu et al. 2018, arXiv:1801.10198; Raffel et al. 2019, arXiv:1910.10683, section 3.2.1")
@dataclasses.dataclass(frozen=True)
class Prefix(AttentionMask):
    """Tokens of a document's prefix see all of the prefix; the others see what came before. Causal where no prefix is marked."""

    prefix = True

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        return k_position <= q_position

    def mean_span(self, context: int) -> float:
        return (context + 1) / 2


@component("permutation", kind="mask", paper="Yang et al. 2019, arXiv:1906.08237, sections 2.2 and 2.3")
@dataclasses.dataclass(frozen=True)
class Permutation(AttentionMask):
    """A token sees those of its own and of lower order, and is predicted from those of lower order. Full where none is given."""

    ordered = True
    band = True


@component("local", kind="mask", paper="Child et al. 2019, arXiv:1904.10509; Beltagy et al. 2020, arXiv:2004.05150")
@dataclasses.dataclass(frozen=True)
class Local(AttentionMask):
    """A token sees itself and the `window` - 1 tokens before it."""

    window: int
    causal = True
    band = True

    def check(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1")

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        return (k_position <= q_position) & (q_position - k_position < self.window)

    def mean_span(self, context: int) -> float:
        w = min(self.window, context)
        return (w * (w + 1) / 2 + (context - w) * w) / context


@component("chunks", kind="mask", paper="Meta AI 2025 (iRoPE); Yang et al. 2025, arXiv:2501.18795")
@dataclasses.dataclass(frozen=True)
class Chunks(AttentionMask):
    """A document is cut into chunks of `size` tokens; a token sees itself and what came before it in its chunk."""

    size: int
    causal = True
    band = True

    def check(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1")

    @property
    def window(self) -> int:
        return self.size

    @property
    def within(self) -> int:
        return self.size

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        return (k_position <= q_position) & (q_position // self.size == k_position // self.size)

    def mean_span(self, context: int) -> float:
        whole, rest = divmod(context, self.size)
        return (whole * self.size * (self.size + 1) / 2 + rest * (rest + 1) / 2) / context


@component("around", kind="mask", paper="Beltagy et al. 2020, arXiv:2004.05150, section 3.1")
@dataclasses.dataclass(frozen=True)
class Around(AttentionMask):
    """A token sees itself, `sides` tokens on each side, and the global tokens of its document: those of the batch's prefix."""

    sides: int
    band = True
    prefix = True

    def check(self) -> None:
        if self.sides < 1:
            raise ValueError(f"sides={self.sides} must be at least 1")

    @property
    def window(self) -> int:
        return self.sides + 1

    @property
    def ahead(self) -> int:
        return self.sides

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        return jnp.abs(q_position - k_position) <= self.sides

    def mean_span(self, context: int) -> float:
        s = min(self.sides, context - 1)
        return 1 + (2 * context * s - s * (s + 1)) / context


@component("strided", kind="mask", paper="Child et al. 2019, arXiv:1904.10509, section 4.3")
@dataclasses.dataclass(frozen=True)
class Strided(AttentionMask):
    """A token sees itself and the `stride` tokens before it ("local"), every `stride`-th earlier token ("strided"), or both."""

    stride: int
    part: Literal["both", "local", "strided"] = "both"
    causal = True

    def check(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1")

    @property
    def window(self) -> int | None:
        return self.stride + 1 if self.part == "local" else None

    @property
    def band(self) -> bool:
        return self.part == "local"

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        behind = q_position - k_position
        local, strided = behind <= self.stride, behind % self.stride == 0
        return (behind >= 0) & {"both": local | strided, "local": local, "strided": strided}[self.part]

    def mean_span(self, context: int) -> float:
        return _mean_span(self, context)


@component("fixed", kind="mask", paper="Child et al. 2019, arXiv:1904.10509, section 4.3")
@dataclasses.dataclass(frozen=True)
class Fixed(AttentionMask):
    """A token sees its block of `stride` tokens ("block"), itself and the last `summary` of every block ("summary"), or both."""

    stride: int
    summary: int
    part: Literal["both", "block", "summary"] = "both"
    causal = True

    def check(self) -> None:
        if not 1 <= self.summary <= self.stride:
            raise ValueError(f"summary={self.summary} must be at least 1 and at most stride={self.stride}")

    @property
    def window(self) -> int | None:
        return self.stride if self.part == "block" else None

    @property
    def within(self) -> int | None:
        return self.stride if self.part == "block" else None

    @property
    def band(self) -> bool:
        return self.part == "block"

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        block = q_position // self.stride == k_position // self.stride
        summary, itself = k_position % self.stride >= self.stride - self.summary, k_position == q_position
        return (k_position <= q_position) & {"both": block | summary, "block": block, "summary": summary | itself}[self.part]

    def mean_span(self, context: int) -> float:
        return _mean_span(self, context)


@component("dilated", kind="mask", paper="Ding et al. 2023, arXiv:2307.02486, section 2.2")
@dataclasses.dataclass(frozen=True)
class Dilated(AttentionMask):
    """Segments of several lengths, each at a rate: head j keeps every rate-th token from j mod rate on, which see those before.

    What a token sees in the segments that keep it is mixed by the denominators of its softmaxes there (eqs. 9 and 10). That is one
    softmax, in which a key counts as `times` as there are segments that keep both.
    """

    segments: tuple[int, ...]
    rates: tuple[int, ...]
    heads: int = formula("heads")
    causal = True
    by_head = True

    def check(self) -> None:
        if len(self.segments) != len(self.rates) or min(self.segments + self.rates, default=0) < 1:
            raise ValueError(f"segments={self.segments} and rates={self.rates} must be as many, and at least 1")
        if 1 not in self.rates:
            raise ValueError(f"rates={self.rates} must have a 1, or no segment keeps all tokens")

    @property
    def window(self) -> int:
        return max(self.segments)

    def allowed(self, q_position: jax.Array, k_position: jax.Array) -> jax.Array:
        return (k_position <= q_position) & (q_position - k_position < self.window)

    def times(self, q_positions_BT: jax.Array, k_positions_BS: jax.Array) -> jax.Array:
        """How many segments of a head keep a query and a key, int32 (B, H, T, S)."""
        total = 0
        for segment, rate in zip(self.segments, self.rates, strict=True):
            offset_H11 = jnp.arange(self.heads)[:, None, None] % rate
            q, k = q_positions_BT[:, None, :, None], k_positions_BS[:, None, None, :]
            kept = (q % segment % rate == offset_H11) & (k % segment % rate == offset_H11)
            total += (kept & (q // segment == k // segment) & (k <= q)).astype(jnp.int32)
        return total

    def mean_span(self, context: int) -> float:
        total = 0
        for segment, rate in zip(self.segments, self.rates, strict=True):
            whole, rest = divmod(context, segment)
            for offset in (head % rate for head in range(self.heads)):
                kept, kept_of_rest = (max(0, -(-(length - offset) // rate)) for length in (segment, rest))
                total += whole * kept * (kept + 1) // 2 + kept_of_rest * (kept_of_rest + 1) // 2
        return total / self.heads / context


@functools.lru_cache(maxsize=256)
def _mean_span(mask: AttentionMask, context: int) -> float:
    """Counted for a sample of queries, evenly spaced; exactly, where the context is short."""
    queries = np.unique(np.linspace(0, context - 1, min(context, 1024)).astype(np.int64))
    keys = np.arange(context)
    return float(np.mean([mask.allowed(query, keys).sum() for query in queries]))
