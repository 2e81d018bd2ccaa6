"""Next-token loss over a large vocabulary without keeping all logits.

The loss and its gradients are computed together, one chunk of time steps after another, so that at most one chunk of logits is
alive and no product is computed twice. `reference` is the plain form.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct


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
    """Weighted sums over tokens, float32 scalars. `loss` has the z-loss in it, `nll` has not; only `loss` has a gradient.

    A squared error is its own `nll`, and none of its numbers is `correct`. others: of losses that are in `loss` but not in the
    rest, by name.
    """

    loss: jax.Array
    nll: jax.Array
    correct: jax.Array
    weight: jax.Array
    others: dict[str, "Sums"] = struct.field(default_factory=dict)

    def means_of_others(self) -> dict[str, jax.Array]:
        """NAME_loss and NAME_accuracy of each."""
        losses = {f"{name}_loss": one.nll / one.weight for name, one in self.others.items()}
        return losses | {f"{name}_accuracy": one.correct / one.weight for name, one in self.others.items()}


def logits(x_BTD: jax.Array, head: Projection) -> jax.Array:
    """Float32 logits (..., V)."""
    contract = (((x_BTD.ndim - 1,), (1,)), ((), ()))
    y = jax.lax.dot_general(x_BTD, head.kernel_VD.astype(x_BTD.dtype), contract, preferred_element_type=jnp.float32)
    return _capped(_shifted(y, head), head)


def _shifted(y: jax.Array, head: Projection) -> jax.Array:
    if head.scale != 1.0:
        y = y * head.scale
    return y if head.bias_V is None else y + head.bias_V


def _capped(y: jax.Array, head: Projection) -> jax.Array:
    return y if head.softcap is None else head.softcap * jnp.tanh(y / head.softcap)


def reference(x_BTD, head: Projection, targets_BT, weights_BT, z_loss: float = 0.0) -> Sums:
    """All logits at once, differentiated by JAX."""
    y = logits(x_BTD, head)
    if head.loss == "squared":
        error_BT = jnp.square(y - targets_BT.reshape(y.shape)).mean(-1)
        return _sums(0.0, error_BT, jnp.zeros_like(error_BT), weights_BT, 0.0)
    if head.loss == "binary":
        y = jnp.concatenate([jnp.zeros_like(y), y], -1)
    return _sums(*_terms(y, targets_BT), weights_BT, z_loss)


def _terms(logits_BTV, targets_BT):
    log_z = jax.nn.logsumexp(logits_BTV, axis=-1)
    # A comparison instead of a gather: it stays local when the vocabulary is sharded.
    is_target = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits_BTV, 0.0), axis=-1)
    correct = target_logit >= logits_BTV.max(-1)
    return log_z, log_z - target_logit, correct


def _sums(log_z, nll_BT, correct_BT, weights_BT, z_loss: float) -> Sums:
    loss_BT = nll_BT + z_loss * jnp.square(log_z) if z_loss else nll_BT
    total = lambda values: jnp.sum(values * weights_BT)  # noqa: E731
    return Sums(total(loss_BT), total(nll_BT), total(correct_BT), jnp.sum(weights_BT))


def cross_entropy(
    x_BTD: jax.Array,
    head: Projection,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    z_loss: float = 0.0,
    chunk_tokens: int = 1024,
) -> Sums:
    """Sums of the loss over all tokens. `z_loss` multiplies (log Z)^2 (PaLM, arXiv:2204.02311, section 5).

    `chunk_tokens` bounds the tokens whose logits are alive at a time; chunks divide the time axis, so a sharded batch stays so.
    """
    if head.loss != "softmax":  # a few logits a token need no chunks
        return reference(x_BTD, head, targets_BT, weights_BT, z_loss)
    return _cross_entropy(z_loss, _chunks(x_BTD, chunk_tokens), x_BTD, head, targets_BT, weights_BT)


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
    """How many parts the time axis falls into."""
    batch, time, _ = x_BTD.shape
    chunks = -(-batch * time // chunk_tokens)
    return next(n for n in range(min(chunks, time), time + 1) if time % n == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(z_loss, chunks, x_BTD, head, targets_BT, weights_BT) -> Sums:
    def step(sums, chunk):
        x, targets, weights = chunk
        return jax.tree.map(jnp.add, sums, reference(x, head, targets, weights, z_loss)), None

    return _over_chunks(step, Sums(*(jnp.zeros((), jnp.float32),) * 4), (x_BTD, targets_BT, weights_BT), chunks)[0]


def _over_chunks(step, carry, arrays, chunks):
    """Scans over chunks of the time axis (axis 1)."""
    if chunks == 1:
        return step(carry, arrays)
    split = lambda a: a.reshape(a.shape[0], chunks, -1, *a.shape[2:]).swapaxes(0, 1)  # noqa: E731
    return jax.lax.scan(step, carry, jax.tree.map(split, arrays))


def _joined(y, chunks: int):
    """The time axis of what `_over_chunks` gave, whole again."""
    return y if chunks == 1 else y.swapaxes(0, 1).reshape(y.shape[1], -1, *y.shape[3:])


def _forward(z_loss, chunks, x_BTD, head, targets_BT, weights_BT):
    kernel_VD = head.kernel_VD.astype(x_BTD.dtype)
    # Both products with the vocabulary are fastest with the features first; the kernel is turned once, its gradient turned back.
    kernel_DV = jax.lax.optimization_barrier(kernel_VD.T)

    def step(carry, chunk):
        sums, d_kernel_DV, d_bias = carry
        x, targets, weights = chunk
        x_ND = x.reshape(-1, x.shape[-1])
        raw = jnp.matmul(x_ND, kernel_DV, preferred_element_type=jnp.float32).reshape(*x.shape[:-1], -1)
        logits_ = _capped(_shifted(raw, head), head)
        log_z, nll, correct = _terms(logits_, targets)
        # d loss / d logits = softmax * (1 + 2 z log Z) - onehot, through the cap and the scale.
        p = jnp.exp(logits_ - log_z[..., None])
        if z_loss:
            p = p * (1.0 + 2.0 * z_loss * log_z)[..., None]
        d = (p - (jnp.arange(p.shape[-1]) == targets[..., None])) * weights[..., None]
        if head.softcap is not None:
            d = d * (1.0 - jnp.square(logits_ / head.softcap))
        if head.bias_V is not None:
            d_bias = d_bias + d.sum((0, 1))
        d_NV = (d * head.scale).astype(x.dtype).reshape(-1, d.shape[-1])
        d_x = (d_NV @ kernel_VD).reshape(x.shape)
        d_kernel_DV = d_kernel_DV + jnp.matmul(x_ND.T, d_NV, preferred_element_type=jnp.float32)
        sums = jax.tree.map(jnp.add, sums, _sums(log_z, nll, correct, weights, z_loss))
        return (sums, d_kernel_DV, d_bias), d_x

    zero = jnp.zeros((), jnp.float32)
    d_bias = None if head.bias_V is None else jnp.zeros(head.bias_V.shape, jnp.float32)
    start = (Sums(zero, zero, zero, zero), jnp.zeros(kernel_DV.shape, jnp.float32), d_bias)
    (sums, d_kernel_DV, d_bias), d_x = _over_chunks(step, start, (x_BTD, targets_BT, weights_BT), chunks)
    d_x = _joined(d_x, chunks)
    d_head = head.replace(kernel_VD=d_kernel_DV.T.astype(head.kernel_VD.dtype), bias_V=d_bias)
    return sums, (d_x, d_head)


def _backward(z_loss, chunks, saved, cotangent: Sums):
    d_x, d_head = jax.tree.map(lambda d: (d * cotangent.loss).astype(d.dtype), saved)
    return d_x, d_head, None, None


_cross_entropy.defvjp(_forward, _backward)
