"""Losses that shape how much a token counts: tempered cross-entropy and GOLD."""

import jax
import jax.numpy as jnp


def tempered_nll(logits_BTV: jax.Array, targets_BT: jax.Array, temperature: float = 1.0) -> jax.Array:
    """-log softmax(logits / temperature) at the targets, float32 (B, T).

    A temperature below 1 in training sharpens the distribution trained and so smooths the one sampled at 1, which keeps fine-tuning
    from overfitting (tempering, Dabre & Fujita 2020; Li et al. 2022, arXiv:2203.07814, section 4.3).
    """
    log_p_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32) / temperature)
    # A comparison instead of a gather: it stays local when the vocabulary is sharded.
    is_target = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    return -jnp.sum(jnp.where(is_target, log_p_BTV, 0.0), axis=-1)


def gold_weights(nll_BT: jax.Array, power: float = 0.5, floor: float = 0.05) -> jax.Array:
    """max(P^power, floor) of tokens of probability P = exp(-nll), float32 (B, T), without a gradient.

    Tokens that the model finds unlikely count less, so that it need not cover every solution (GOLD, Pang & He 2020,
    arXiv:2009.07839; in this form Li et al. 2022, arXiv:2203.07814, appendix C.3, eq. 1).
    """
    return jax.lax.stop_gradient(jnp.maximum(jnp.exp(-power * nll_BT), floor))


def gold(
    logits_BTV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    temperature: float = 0.2,
    power: float = 0.5,
    floor: float = 0.05,
) -> jax.Array:
    """The sum over tokens of weights * gold_weights * tempered_nll, a float32 scalar; both are of the tempered distribution.

    `weights_BT` are 0 for tokens not to be learned. What tells right from wrong solutions is part of the text (value conditioning),
    so that wrong ones are learned as such (Li et al. 2022, arXiv:2203.07814, section 4.3).
    """
    nll_BT = tempered_nll(logits_BTV, targets_BT, temperature)
    return jnp.sum(weights_BT * gold_weights(nll_BT, power, floor) * nll_BT)
