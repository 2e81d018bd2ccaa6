"""Dilated attention: the tokens that a head keeps of each segment are gathered and attend to each other.

The work is that of windows of segment / rate tokens, so it grows with the length and not with its square. The plain form is
`attention.reference` under the mask `dilated`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from taxonomy.ops.attention import Keys, Scores, chunked
from taxonomy.ops.masks import Causal

_NOTHING = -1e30  # the logarithm of the denominator of what sees no key


@dataclasses.dataclass(frozen=True)
class _Kept(Causal):
    """Causal among the tokens kept of a segment, of which there are `window`."""

    window: int


def attend(q_BTHK, positions_BT, segments_BT, keys: Keys, scores: Scores) -> jax.Array:
    """Queries and keys of the same tokens under a mask `dilated`, (B, T, H, K)."""
    repeats = q_BTHK.shape[2] // keys.k_BGSK.shape[1]
    arrays = (q_BTHK.swapaxes(1, 2), *(jnp.repeat(a, repeats, 1) for a in (keys.k_BGSK, keys.v_BGSK)))
    pairs = zip(scores.mask.segments, scores.mask.rates, strict=True)
    plain = dataclasses.replace(scores, sinks_H=None)
    parts = [_sparse(arrays, positions_BT, segments_BT, plain, segment, rate) for segment, rate in pairs]
    if scores.sinks_H is not None:
        # One part more, whose denominator is the sink's and whose output is nothing.
        parts.append(jnp.zeros_like(parts[0]).at[..., -1].set(scores.sinks_H[:, None]))
    y_PBHTK = jnp.stack(parts)
    share_PBHT = jax.nn.softmax(y_PBHTK[..., -1], axis=0)
    y_BHTK = (share_PBHT[..., None] * y_PBHTK[..., :-1]).sum(0)
    return y_BHTK.swapaxes(1, 2).astype(keys.v_BGSK.dtype)


def _sparse(arrays, positions_BT, segments_BT, scores: Scores, segment: int, rate: int) -> jax.Array:
    """Attention in segments of one length, as if to the rest of the tokens nothing happened: (B, H, T, K) and `totals`."""
    batch, heads, time, _ = arrays[0].shape
    number_BT = positions_BT // segment
    begins_BT = number_BT[:, 1:] != number_BT[:, :-1]
    if segments_BT is not None:
        begins_BT |= segments_BT[:, 1:] != segments_BT[:, :-1]
    # A number of its own for every segment of every document.
    number_BT = jnp.cumsum(jnp.pad(begins_BT, ((0, 0), (1, 0))), 1)
    scores = dataclasses.replace(scores, mask=_Kept(-(-segment // rate)), totals=True)
    if rate == 1:
        every_head = (jnp.broadcast_to(a[:, None], (batch, heads, time)) for a in (positions_BT, number_BT))
        return _inside(arrays, *every_head, scores)

    kept_BRT = (positions_BT % segment % rate)[:, None] == jnp.arange(rate)[:, None]
    slot_BRT = jnp.cumsum(kept_BRT, -1) - 1
    of_head = jnp.arange(heads) % rate

    def gathered(room: int) -> jax.Array:
        """With room for so many tokens of each offset."""
        rows, offsets = jnp.arange(batch)[:, None, None], jnp.arange(rate)[None, :, None]
        place_BRN = (
            jnp.full((batch, rate, room), time)
            .at[rows, offsets, jnp.where(kept_BRT, slot_BRT, room)]
            .set(jnp.arange(time), mode="drop")
        )
        place_BHN = place_BRN[:, of_head]
        there = jnp.minimum(place_BHN, time - 1)
        own = (jnp.take_along_axis(a, there[..., None], 2) for a in arrays)
        of_tokens = (jnp.take_along_axis(a[:, None], there, 2) for a in (positions_BT, number_BT))
        y_BHNK = _inside(own, *(jnp.where(place_BHN < time, a, -1) for a in of_tokens), scores)
        slot_BHT = jnp.clip(slot_BRT[:, of_head], 0, room - 1)
        return jnp.take_along_axis(y_BHNK, slot_BHT[..., None], 2)

    # Evenly spaced tokens fit; only many short documents, of which each keeps its first token, may not.
    room = min(time, -(-time // rate) + max(64, time // (4 * rate)))
    if room == time or scores.dropout is not None:
        y_BHTK = gathered(time)
    else:
        y_BHTK = jax.lax.cond(kept_BRT.sum(-1).max() <= room, lambda: gathered(room), lambda: gathered(time))
    kept_BHT = kept_BRT[:, of_head]
    return jnp.where(kept_BHT[..., None], y_BHTK, jnp.zeros(y_BHTK.shape[-1]).at[-1].set(_NOTHING))


def _inside(arrays, positions_BHN, number_BHN, scores: Scores) -> jax.Array:
    """Attention of each head to its own tokens: heads join the batch."""
    batch, heads, *_ = positions_BHN.shape
    merged = lambda a: a.reshape(batch * heads, *a.shape[2:])  # noqa: E731
    q, k, v = (merged(a) for a in arrays)
    keys = Keys(k[:, None], v[:, None], merged(positions_BHN), merged(number_BHN), True)
    y = chunked(q[:, :, None], keys.positions_BS, keys.segments_BS, keys, scores)
    return y.reshape(batch, heads, *y.shape[1::2])
