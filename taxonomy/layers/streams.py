"""Two streams through the same layers: what a token is, and what it is predicted from.

A model that reads an order carries two rows for each of a batch: row 2b is the content stream of row b, row 2b + 1 its query
stream. The content stream begins with the tokens, the query stream with one learned vector at their places. Both ask; keys and
values are those of the content stream. The rows of a pair stand side by side, so that a sharded batch stays where it is, and all
that works per token or per row (norms, feed-forwards, positions, segments) knows nothing of streams.

Who sees whom is one rule on ranks: a token of order o has rank 2 o in the content stream and 2 o - 1 in the query stream, and sees
the contents of no higher rank. So a content sees itself and what comes with or before it; a query only what comes strictly before.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy.layers.context import Context
from taxonomy.layers.params import declare
from taxonomy.registry import Component


class QueryVector(nn.Module):
    """The learned vector that the query stream begins with (w of Yang et al. 2019, arXiv:1906.08237, section 2.3)."""

    d_model: int
    initializer: Component

    @nn.compact
    def __call__(self) -> jax.Array:
        """(1, 1, D)."""
        return declare(self, "vector", (1, 1, self.d_model), (None, None, "embed"), "embedding", self.initializer)


def begin(context: Context, order_BT: jax.Array, vector_11D: jax.Array) -> Context:
    """The context of both streams (2B, T), from that of the tokens, which the query stream must not know."""
    of_rows = {
        name: both(getattr(context, name))
        for name in ("positions_BT", "segments_BT", "prefix_BT", "types_BT", "domains_B")
        if getattr(context, name) is not None
    }
    return context.replace(**of_rows, tokens_BT=None, ranks_BT=_interleaved(2 * order_BT, 2 * order_BT - 1), query_11D=vector_11D)


def with_queries(x_BTD: jax.Array, context: Context) -> jax.Array:
    """Embedded tokens and, where there are two streams, the vectors that the other one begins with."""
    if context.ranks_BT is None:
        return x_BTD
    return _interleaved(x_BTD, jnp.broadcast_to(context.query_11D.astype(x_BTD.dtype), x_BTD.shape))


def seen(x_BTD: jax.Array, context: Context) -> jax.Array:
    """The tokens that keys and values are made of, one row for each of the batch."""
    return x_BTD if context.ranks_BT is None else _streams(x_BTD)[0]


def shared(keys_BTGK: jax.Array, context: Context) -> jax.Array:
    """Keys or values of those tokens, for every row that asks."""
    return keys_BTGK if context.ranks_BT is None else both(keys_BTGK)


def key_ranks(context: Context) -> jax.Array | None:
    """The ranks (B, T) of what each row sees, or None without an order."""
    return None if context.ranks_BT is None else both(_streams(context.ranks_BT)[0])


def end(x_BTD: jax.Array, order_BT: jax.Array) -> jax.Array:
    """What tokens are predicted from: the query stream or, for tokens of order 0, which are not hidden, the content stream."""
    content_BTD, query_BTD = _streams(x_BTD)
    return jnp.where(order_BT[:, :, None] > 0, query_BTD, content_BTD)


def both(x: jax.Array) -> jax.Array:
    """Every row twice."""
    return _interleaved(x, x)


def _interleaved(content: jax.Array, query: jax.Array) -> jax.Array:
    return jnp.stack([content, query], 1).reshape(-1, *content.shape[1:])


def _streams(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]
