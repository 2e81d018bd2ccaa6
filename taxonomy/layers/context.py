"""What every sublayer is told besides the residual stream."""

from collections.abc import Callable

import jax
from flax import struct

from taxonomy.ops.attention import Keys
from taxonomy.ops.grouped_matmul import Groups


@struct.dataclass
class Memory:
    """What the encoder made of the inputs, and where its tokens stand; see `Context`."""

    x_BSD: jax.Array
    positions_BS: jax.Array
    segments_BS: jax.Array | None = None


@struct.dataclass
class Context:
    """One batch's coordinates, the same for all layers.

    positions_BT: position of each token in its own document; -1 marks padding while decoding.
    segments_BT: document number within a packed row (0 is padding), or None when every row is one document.
    prefix_BT: tokens that all tokens of their document may see under a mask with a prefix, or None when there are none.
    types_BT: which part of the input a token belongs to, such as the first or second sentence; None when there is one part.
    memory: of the encoder, for sublayers that attend to it; None once their keys are cached.
    lent: keys and values of an earlier layer that lends them, or None. lend: what a sublayer lends its own with.
    tokens_BT: ids of the tokens; None where a layer must not see them.
    domains_B: the number of the dataset of a mixture that a row is from; None where that is not known.
    relative_NH: the table of relative positions that a stack's layers share, or None.
    ranks_BT: where an order is read, the highest rank of the keys that a token sees; query_11D: what the query stream begins with.
        Rows are then those of two streams, see `streams`.
    groups: of rows that a stack of experts computes, for the feed-forward that they are; None for all tokens alike.
    reach: where only some tokens of a row are here, how many there are in all; None where all are, side by side.
    train: dropout is active.
    cache_length: tokens a decoding cache must hold, or None when keys and values are not cached. cache: what a new one keeps of
        them, see `cache`. spare: tokens that may be taken back from it, see `cache.forgotten`.
    attention, experts: names of implementations, see `ops.attention` and `experts`. stream: how the residual stream stands between
        blocks, see `sharding.STREAMS`.
    """

    positions_BT: jax.Array
    segments_BT: jax.Array | None = None
    prefix_BT: jax.Array | None = None
    types_BT: jax.Array | None = None
    memory: Memory | None = None
    lent: Keys | None = None
    tokens_BT: jax.Array | None = None
    domains_B: jax.Array | None = None
    relative_NH: jax.Array | None = None
    ranks_BT: jax.Array | None = None
    query_11D: jax.Array | None = None
    groups: Groups | None = None
    reach: int | None = struct.field(pytree_node=False, default=None)
    lend: Callable[[Keys], None] | None = struct.field(pytree_node=False, default=None)
    train: bool = struct.field(pytree_node=False, default=False)
    cache_length: int | None = struct.field(pytree_node=False, default=None)
    cache: str = struct.field(pytree_node=False, default="exact")
    spare: int = struct.field(pytree_node=False, default=0)
    attention: str = struct.field(pytree_node=False, default="auto")
    experts: str = struct.field(pytree_node=False, default="auto")
    stream: str = struct.field(pytree_node=False, default="whole")
