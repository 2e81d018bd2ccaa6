"""Experts of all assignments: as many slots for each of them at once, and what exceeds those in a loop over blocks of rows.

A block is of one expert, and goes through all of it before the next: there is no room for what no block uses. The loop ends after
the last block in use, forward and backward. It copies the expert's parameters for each, so few should be used.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

# Parameters of E experts and their rows (E, M, D) -> (E, M, D).
Experts = Callable[[Any, jax.Array], jax.Array]


@struct.dataclass
class Overflow:
    """Blocks of M rows of an expert each, of_G, of which the first used_1 are in use.

    rows_GM: the assignment in each row of a block, A where there is none. tokens_A: its token.
    """

    of_G: jax.Array
    used_1: jax.Array
    rows_GM: jax.Array
    tokens_A: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def computed(
    experts: Experts,
    weigh_input: bool,
    params: Any,
    slots_EMD: jax.Array,
    x_ND: jax.Array,
    weights_A: jax.Array,
    overflow: Overflow,
) -> tuple[jax.Array, jax.Array]:
    """What experts make of slots (E, M, D), and the sum of what they make of the tokens x_ND that overflow, weighted.

    weigh_input: whether weights multiply what an expert gets of these, or what it gives.
    """
    return experts(params, slots_EMD), _overflowing(experts, weigh_input, params, x_ND, weights_A, overflow)


def computed_reference(experts: Experts, weigh_input: bool, params: Any, slots_EMD, x_ND, weights_A, overflow: Overflow):
    """The same, a row of the overflow after another."""
    y_ND = jnp.zeros_like(x_ND)
    for g in range(int(overflow.used_1[0])):
        one = jax.tree.map(lambda p, g=g: p[overflow.of_G[g]][None], params)
        for a in overflow.rows_GM[g]:
            if a < weights_A.size:
                before, after = (weights_A[a], 1) if weigh_input else (1, weights_A[a])
                token = overflow.tokens_A[a]
                y_ND = y_ND.at[token].add(after * experts(one, before * x_ND[token][None, None])[0, 0])
    return experts(params, slots_EMD), y_ND


def _forward(experts, weigh_input, params, slots_EMD, x_ND, weights_A, overflow):
    y_EMD, pull = jax.vjp(experts, params, slots_EMD)
    y_ND = _overflowing(experts, weigh_input, params, x_ND, weights_A, overflow)
    return (y_EMD, y_ND), (pull, params, x_ND, weights_A, overflow)


def _backward(experts, weigh_input, kept, dy):
    (pull, params, x_ND, weights_A, overflow), (dy_EMD, dy_ND) = kept, dy
    dparams, dslots_EMD = pull(dy_EMD)

    def block(g, gradients):
        dparams, dx_ND, dweights_A = gradients
        e, rows_M, tokens_M, inputs = _read(g, params, x_ND, weights_A, overflow)
        _, pull = jax.vjp(functools.partial(_weighted, experts, weigh_input), *inputs)
        of_expert, dx_MD, dweights_M = pull(_rows(dy_ND, tokens_M))
        # Into the slots' own gradients: those of all experts are many, and are written once.
        dparams = jax.tree.map(lambda whole, part: _put(whole, _one(whole, e) + part, e), dparams, of_expert)
        dx_ND = dx_ND.at[tokens_M].add(dx_MD, mode="drop")
        return dparams, dx_ND, dweights_A.at[rows_M].set(dweights_M, mode="drop")

    start = dparams, jnp.zeros_like(x_ND), jnp.zeros_like(weights_A)
    dparams, dx_ND, dweights_A = jax.lax.fori_loop(0, overflow.used_1[0], block, start)
    return dparams, dslots_EMD, dx_ND, dweights_A, None


computed.defvjp(_forward, _backward)


def _overflowing(experts, weigh_input, params, x_ND, weights_A, overflow) -> jax.Array:
    def block(g, y_ND):
        _, _, tokens_M, inputs = _read(g, params, x_ND, weights_A, overflow)
        return y_ND.at[tokens_M].add(_weighted(experts, weigh_input, *inputs), mode="drop")

    return jax.lax.fori_loop(0, overflow.used_1[0], block, jnp.zeros_like(x_ND))


def _read(g, params, x_ND, weights_A, overflow):
    """The expert of a block, its assignments and tokens, and what `_weighted` takes."""
    e, rows_M = overflow.of_G[g], overflow.rows_GM[g]
    tokens_M = overflow.tokens_A.at[rows_M].get(mode="fill", fill_value=x_ND.shape[0])
    one = jax.tree.map(lambda whole: _one(whole, e), params)
    return e, rows_M, tokens_M, (one, _rows(x_ND, tokens_M), _rows(weights_A, rows_M))


def _weighted(experts: Experts, weigh_input: bool, params_1: Any, x_MD: jax.Array, weights_M: jax.Array) -> jax.Array:
    weights_M1 = weights_M[:, None].astype(x_MD.dtype)
    if weigh_input:
        return experts(params_1, (x_MD * weights_M1)[None])[0]
    return experts(params_1, x_MD[None])[0] * weights_M1


def _rows(x: jax.Array, which_M: jax.Array) -> jax.Array:
    return x.at[which_M].get(mode="fill", fill_value=0)


def _one(whole: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(whole, i, 1)


def _put(whole: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, i, 0)
