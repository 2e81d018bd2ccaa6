"""Tokens to experts so that all experts get as many: by an auction, or in shares."""

import jax
import jax.numpy as jnp

from taxonomy.ops.dispatch import ranks

PRECISION = 200  # how often the smallest raise of a price goes into the range of a row's scores
_ROUNDS = 2000  # tokens that have no expert by then, as where most are alike, take the places that are left in turn
EVENNESS = 1e-3  # what an expert's share may differ by, as a part of it
_NORMALISATIONS = 500  # by then shares are taken as they are, as where scores are far apart


def balanced(scores_BTE: jax.Array, live_BT: jax.Array) -> jax.Array:
    """The expert of every token, (B, T), such that the sum of scores is as large as it can be.

    In every row no expert gets more than ceil(n / E) of the n live tokens. Tokens without an expert bid for the one they gain most
    from at its price, which is the lowest bid that it has accepted once it is full (Bertsekas & Castanon 1989, "The auction
    algorithm for the transportation problem"). The sum is within n / 200 of the range of the row's scores of the largest there is,
    unless many tokens are so much alike that the auction does not end in time.
    """
    return jax.vmap(_row)(scores_BTE.astype(jnp.float32), live_BT)


def _row(scores_TE: jax.Array, live_T: jax.Array) -> jax.Array:
    time, experts = scores_TE.shape
    if experts == 1:
        return jnp.zeros(time, jnp.int32)
    limit = -(-live_T.sum() // experts)
    least, most = (pick(scores_TE, where=live_T[:, None], initial=0.0) for pick in (jnp.min, jnp.max))
    raised = jnp.maximum(most - least, 1e-6) / PRECISION

    def unfinished(state):
        _, accepted_T, _, turn = state
        return jnp.any(live_T & ~accepted_T) & (turn < _ROUNDS)

    def bid(state):
        expert_T, accepted_T, bid_T, turn = state
        # What an expert that is full asks for is its lowest bid.
        of_expert_TE = accepted_T[:, None] & (expert_T[:, None] == jnp.arange(experts))
        price_E = jnp.where(of_expert_TE.sum(0) >= limit, jnp.where(of_expert_TE, bid_T[:, None], jnp.inf).min(0), 0.0)
        gain_TE = scores_TE - price_E
        (best_T, second_T), wanted_T = jax.lax.top_k(gain_TE, 2)[0].T, gain_TE.argmax(1)
        expert_T = jnp.where(accepted_T, expert_T, wanted_T)
        bid_T = jnp.where(accepted_T, bid_T, price_E[wanted_T] + best_T - second_T + raised)
        order_T = jnp.argsort(jnp.where(live_T, -bid_T, jnp.inf))
        rank_T, _ = ranks(expert_T[order_T], experts)
        accepted_T = live_T & jnp.zeros_like(live_T).at[order_T].set(rank_T < limit)
        return expert_T, accepted_T, bid_T, turn + 1

    start = jnp.zeros(time, jnp.int32), jnp.zeros(time, bool), jnp.zeros(time), 0
    expert_T, accepted_T, _, _ = jax.lax.while_loop(unfinished, bid, start)
    taken_E = jnp.bincount(jnp.where(accepted_T, expert_T, experts), length=experts + 1)[:-1]
    left_T = live_T & ~accepted_T
    place_T = jnp.searchsorted(jnp.cumsum(limit - taken_E), jnp.cumsum(left_T) - 1, side="right").clip(max=experts - 1)
    expert_T = jnp.where(accepted_T, expert_T, jnp.where(left_T, place_T, scores_TE.argmax(1)))
    return expert_T.astype(jnp.int32)


def shares(scores_BTE: jax.Array, live_BT: jax.Array) -> jax.Array:
    """The share of every token that every expert gets, float32 (B, T, E): all alike of a row's n live tokens, n / E each.

    Of all plans in which a live token's shares sum to one and experts get as much, it is the one of largest sum of shares times
    scores, plus the shares' entropy: exp(scores), columns and rows normalised in turn (Sinkhorn & Knopp 1967; Cuturi 2013,
    arXiv:1306.0895) until experts' sums are within a thousandth of n / E. It is no gradient's path.
    """
    return jax.vmap(_shares_of_row)(jax.lax.stop_gradient(scores_BTE).astype(jnp.float32), live_BT)


def _shares_of_row(scores_TE: jax.Array, live_T: jax.Array) -> jax.Array:
    wanted = jnp.maximum(live_T.sum(), 1) / scores_TE.shape[1]

    def of_tokens(added_E):
        return jnp.where(live_T[:, None], jax.nn.softmax(scores_TE + added_E, 1), 0.0)

    def uneven(state):
        added_E, turn = state
        off_E = jnp.abs(of_tokens(added_E).sum(0) - wanted)
        return jnp.any(live_T) & jnp.any(off_E > EVENNESS * wanted) & (turn < _NORMALISATIONS)

    def normalise(state):
        added_E, turn = state
        got_E = jnp.maximum(of_tokens(added_E).sum(0), jnp.finfo(jnp.float32).tiny)
        return added_E + jnp.log(wanted) - jnp.log(got_E), turn + 1

    added_E, _ = jax.lax.while_loop(uneven, normalise, (jnp.zeros(scores_TE.shape[1]), 0))
    return of_tokens(added_E)
