"""Next-token loss over a large vocabulary without keeping all logits.

The loss and its gradients are computed together, one chunk of time steps after another, so that at most one chunk of logits is
alive and no product is computed twice. Devices with other rows of the batch add up their own parts of the head's gradient, and
exchange them once, after the last chunk. `reference` is the plain form.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from taxonomy import sharding
from taxonomy.ops.losses import PLAIN, Loss, at


@struct.dataclass
class Projection:
    """From features to logits: x @ kernel.T * scale + bias, then cap * tanh(logits / cap) when softcap is given.

    loss: what logits mean. "softmax": scores of the V targets that a token may have, which are integers (B, T). "binary": the score
    (V is 1) of a yes, target 1, against a no, target 0, of score zero. "squared": they are the targets, real numbers (B, T, V),
    or (B, T) where V is 1; the loss is the squared error, averaged over V.
    """

    kernel_VD: jax.Array
    bias_V: jax.Array | None
    scale: float = struct.field(pytree_node=False, default=1.0)
    softcap: float | None = struct.field(pytree_node=False, default=None)
    loss: Literal["softmax", "binary", "squared"] = struct.field(pytree_node=False, default="softmax")


@struct.dataclass
class Sums:
    """Weighted sums, float32. `loss`, over all tokens, is that trained with and has a gradient; the others are by row, (B).

    `nll` is -log P, `correct` counts tokens scored highest, `weight` is what they count for. A squared error is its own `nll`, and
    none of its numbers is `correct`. others: of losses that are in `loss` but not in the rest, by name. routing: sums of layers
    with experts, see `layers.routing`.
    """

    loss: jax.Array
    nll: jax.Array
    correct: jax.Array
    weight: jax.Array
    others: dict[str, "Sums"] = struct.field(default_factory=dict)
    routing: Any = struct.field(default_factory=dict)

    def collected(self, collect: Callable[[jax.Array], jax.Array]) -> "Sums":
        """The same with what is by row collected."""
        by_row = (collect(rows_B) for rows_B in (self.nll, self.correct, self.weight))
        return Sums(self.loss, *by_row, {name: one.collected(collect) for name, one in self.others.items()}, self.routing)

    def means_of_others(self) -> dict[str, jax.Array]:
        """NAME_loss and NAME_accuracy of each."""
        losses = {f"{name}_loss": one.nll.sum() / one.weight.sum() for name, one in self.others.items()}
        return losses | {f"{name}_accuracy": one.correct.sum() / one.weight.sum() for name, one in self.others.items()}


def logits(x_BTD: jax.Array, head: Projection) -> jax.Array:
    """Float32 logits (..., V)."""
    if x_BTD.ndim == 2:
        # Of few rows, where XLA on CPU reads the table fastest as the first factor; the barrier keeps it there.
        kernel_VD, contract = head.kernel_VD.astype(x_BTD.dtype), (((1,), (1,)), ((), ()))
        y_VB = jax.lax.dot_general(kernel_VD, x_BTD, contract, preferred_element_type=jnp.float32)
        return _capped(_shifted(jax.lax.optimization_barrier(y_VB).T, head), head)
    contract = (((x_BTD.ndim - 1,), (1,)), ((), ()))
    y = jax.lax.dot_general(x_BTD, head.kernel_VD.astype(x_BTD.dtype), contract, preferred_element_type=jnp.float32)
    return _capped(_shifted(y, head), head)


def _shifted(y: jax.Array, head: Projection) -> jax.Array:
    if head.scale != 1.0:
        y = y * head.scale
    return y if head.bias_V is None else y + head.bias_V


def _capped(y: jax.Array, head: Projection) -> jax.Array:
    return y if head.softcap is None else head.softcap * jnp.tanh(y / head.softcap)


def reference(x_BTD, head: Projection, targets_BT, weights_BT, loss: Loss = PLAIN) -> Sums:
    """All logits at once, differentiated by JAX."""
    y = logits(x_BTD, head)
    if head.loss == "squared":
        error_BT = jnp.square(y - targets_BT.reshape(y.shape)).mean(-1)
        return _weighted(error_BT, error_BT, jnp.zeros_like(error_BT), weights_BT)
    if head.loss == "binary":
        y = jnp.concatenate([jnp.zeros_like(y), y], -1)
    return _sums(y, targets_BT, weights_BT, loss)


def _sums(logits_BTV, targets_BT, weights_BT, loss: Loss) -> Sums:
    correct_BT = at(logits_BTV, targets_BT) >= logits_BTV.max(-1)
    return _weighted(loss.cost(logits_BTV, targets_BT), PLAIN.cost(logits_BTV, targets_BT), correct_BT, weights_BT)


def _weighted(cost_BT, nll_BT, correct_BT, weights_BT) -> Sums:
    rows = lambda values: jnp.sum(values * weights_BT, axis=1)  # noqa: E731
    return Sums(jnp.sum(cost_BT * weights_BT), rows(nll_BT), rows(correct_BT), jnp.sum(weights_BT, axis=1))


def cross_entropy(
    x_BTD: jax.Array,
    head: Projection,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    loss: Loss = PLAIN,
    chunk_tokens: int = 1024,
) -> Sums:
    """Sums of the loss over all tokens.

    `chunk_tokens` bounds the tokens whose logits are alive at a time on a device; chunks divide the time axis, so a sharded
    batch stays so.
    """
    if head.loss != "softmax":  # a few logits a token need no chunks
        return reference(x_BTD, head, targets_BT, weights_BT, loss)
    return _cross_entropy(loss, _chunks(x_BTD, chunk_tokens), x_BTD, head, targets_BT, weights_BT)


def sample(x_BTD: jax.Array, head: Projection, uniform_BT: jax.Array, chunk_tokens: int = 1024) -> jax.Array:
    """A target for each token, int32 [B, T], drawn by its number uniform in [0, 1) with the probability the logits give it."""

    def step(carry, chunk):
        x, uniform = chunk
        sums = jnp.cumsum(jax.nn.softmax(logits(x, head)), -1)
        drawn = jnp.sum(sums <= uniform[..., None] * sums[..., -1:], -1, dtype=jnp.int32)
        # Rounding may bring the product up to the sum of all.
        return carry, jnp.minimum(drawn, sums.shape[-1] - 1)

    chunks = _chunks(x_BTD, chunk_tokens)
    _, drawn = _over_chunks(step, (), jax.lax.stop_gradient((x_BTD, uniform_BT)), chunks)
    return _joined(drawn, chunks)


def _chunks(x_BTD: jax.Array, chunk_tokens: int) -> int:
    """How many parts the time axis falls into, of each device that has a part of the sequence."""
    batch, time, _ = x_BTD.shape
    time //= _apart(time)
    chunks = -(-batch * time // (chunk_tokens * sharding.over(sharding.place("batch", batch))))
    return next(n for n in range(min(chunks, time), time + 1) if time % n == 0)


def _apart(time: int) -> int:
    """How many devices have a part of the sequence."""
    return sharding.over(sharding.place("time", time))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(loss, chunks, x_BTD, head, targets_BT, weights_BT) -> Sums:
    def step(sums, chunk):
        x, targets, weights = chunk
        return jax.tree.map(jnp.add, sums, reference(x, head, targets, weights, loss)), None

    return _over_chunks(step, zeros(x_BTD.shape[0]), (x_BTD, targets_BT, weights_BT), chunks)[0]


def zeros(rows: int) -> Sums:
    """The sums of nothing."""
    return Sums(jnp.zeros((), jnp.float32), *(jnp.zeros(rows, jnp.float32),) * 3)


def _over_chunks(step, carry, arrays, chunks):
    """Scans over chunks of the time axis (axis 1), each of which has a chunk of every device's part."""
    if chunks == 1:
        return step(carry, arrays)

    def split(a):
        parts = a.reshape(a.shape[0], _apart(a.shape[1]), chunks, -1, *a.shape[2:])
        return jnp.moveaxis(parts, 2, 0).reshape(chunks, a.shape[0], -1, *a.shape[2:])

    return jax.lax.scan(step, carry, jax.tree.map(split, arrays))


def _joined(y, chunks: int):
    """The time axis of what `_over_chunks` gave, whole again."""
    if chunks == 1:
        return y
    parts = y.reshape(*y.shape[:2], _apart(chunks * y.shape[2]), -1, *y.shape[3:])
    return jnp.moveaxis(parts, 0, 2).reshape(y.shape[1], -1, *y.shape[3:])


def _forward(loss, chunks, x_BTD, head, targets_BT, weights_BT):
    kernel_VD = head.kernel_VD.astype(x_BTD.dtype)
    # Both products with the vocabulary are fastest with the features first; the kernel is turned once, its gradient turned back.
    kernel_DV = jax.lax.optimization_barrier(kernel_VD.T)
    # Gradients of the head have an axis of the places (P) that the batch's rows stand at, until all chunks are added up.
    places = sharding.over(sharding.place("batch", x_BTD.shape[0])) if chunks > 1 else 1
    by_place = lambda a: a.reshape(places, -1, *a.shape[1:])  # noqa: E731
    # They are divided by features where the vocabulary does not divide.
    features, vocab = (None, "vocab") if sharding.place("vocab", kernel_VD.shape[0]) else ("feature_parts", None)

    def added(d_kernel_PDV, x_ND, d_NV):
        """x.T d of every place, added. The plain form is that which XLA on CPU computes fastest."""
        if places == 1:
            return d_kernel_PDV + _outer(x_ND, d_NV)[None]
        tokens = (None,) if x_ND.ndim == 2 else (None, "time")
        x_PND = sharding.constrained(by_place(x_ND), ("batch", *tokens, features))
        product_PDV = jax.vmap(_outer)(x_PND, by_place(d_NV))
        return sharding.constrained(d_kernel_PDV + product_PDV, ("batch", features, vocab))

    def step(carry, chunk):
        sums, d_kernel_PDV, d_bias_PV = carry
        x, targets, weights = chunk
        # Tokens are flattened as in `layers.params.project`.
        tokens = (-1,) if _apart(x_BTD.shape[1]) == 1 else x.shape[:-1]
        x_ND = x.reshape(*tokens, x.shape[-1])
        raw = jnp.matmul(x_ND, kernel_DV, preferred_element_type=jnp.float32).reshape(*x.shape[:-1], -1)
        logits_ = _capped(_shifted(raw, head), head)
        # Through the cap and the scale.
        d = loss.slope(logits_, targets) * weights[..., None]
        if head.softcap is not None:
            d = d * (1.0 - jnp.square(logits_ / head.softcap))
        if head.bias_V is not None:
            d_bias_PV = d_bias_PV + by_place(d).sum((1, 2))
        d_NV = (d * head.scale).astype(x.dtype).reshape(*tokens, d.shape[-1])
        d_x = (d_NV @ kernel_VD).reshape(x.shape)
        d_kernel_PDV = added(d_kernel_PDV, x_ND, d_NV)
        sums = jax.tree.map(jnp.add, sums, _sums(logits_, targets, weights, loss))
        return (sums, d_kernel_PDV, d_bias_PV), d_x

    d_bias_PV = None if head.bias_V is None else jnp.zeros((places, *head.bias_V.shape), jnp.float32)
    start = (zeros(x_BTD.shape[0]), jnp.zeros((places, *kernel_DV.shape), jnp.float32), d_bias_PV)
    (sums, d_kernel_PDV, d_bias_PV), d_x = _over_chunks(step, start, (x_BTD, targets_BT, weights_BT), chunks)
    d_x = _joined(d_x, chunks)
    d_kernel_DV = d_kernel_PDV.sum(0)
    if places > 1:
        d_kernel_DV = sharding.constrained(d_kernel_DV, ("embed", "vocab"))
    d_bias_V = None if d_bias_PV is None else d_bias_PV.sum(0)
    return sums, (d_x, head.replace(kernel_VD=d_kernel_DV.T.astype(head.kernel_VD.dtype), bias_V=d_bias_V))


def _outer(x: jax.Array, d: jax.Array) -> jax.Array:
    """The sum over tokens (N, ...) or (B, T, ...) of the products of all features with all others, float32."""
    if x.ndim == 2:
        return jnp.matmul(x.T, d, preferred_element_type=jnp.float32)
    return jnp.einsum("btd,btv->dv", x, d, preferred_element_type=jnp.float32)


def _backward(loss, chunks, saved, cotangent: Sums):
    d_x, d_head = jax.tree.map(lambda d: (d * cotangent.loss).astype(d.dtype), saved)
    return d_x, d_head, None, None


_cross_entropy.defvjp(_forward, _backward)
