"""How large a batch is useful: the gradient noise scale of McCandlish et al. 2018, arXiv:1812.06162.

B_simple = tr(Sigma) / |G|^2, with G the gradient of the whole distribution and Sigma the covariance of one example's. Steps S and
examples E of runs to one loss lie on (S/S_min - 1)(E/E_min - 1) = 1, and B_crit = E_min/S_min is where both are twice the least.
"""

from typing import NamedTuple

import numpy as np


class NoiseScale(NamedTuple):
    """Unbiased estimates; their ratio is not, so average them over steps before `simple` is taken."""

    squared_gradient: float
    noise: float

    @property
    def simple(self) -> float:
        """B_simple, in the unit that batches were counted in."""
        return self.noise / self.squared_gradient


def noise_scale(small_norm_squared, large_norm_squared, small_batch: float, large_batch: float) -> NoiseScale:
    """From squared norms of the gradients of small and of large batches, numbers or arrays over steps (their appendix A.1)."""
    if not 0 < small_batch < large_batch:
        raise ValueError(f"noise_scale: expected 0 < small_batch < large_batch, got {small_batch}, {large_batch}")
    small, large = np.mean(small_norm_squared), np.mean(large_norm_squared)
    squared = (large_batch * large - small_batch * small) / (large_batch - small_batch)
    noise = (small - large) / (1 / small_batch - 1 / large_batch)
    return NoiseScale(float(squared), float(noise))


def steps_and_examples(batch: float, critical_batch: float, least_steps: float) -> tuple[float, float]:
    """S and E of a run with this batch to the loss that takes `least_steps` at the largest batch (equation 2.11)."""
    return least_steps * (1 + critical_batch / batch), least_steps * (batch + critical_batch)


def critical_batch(batches: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """B_crit and S_min from the steps that several batches took to one loss: S = S_min (1 + B_crit / B), by relative errors."""
    batches, steps = np.asarray(batches, float), np.asarray(steps, float)
    design = np.stack([np.ones_like(batches), 1 / batches], axis=1) / steps[:, None]
    least, slope = np.linalg.lstsq(design, np.ones_like(steps), rcond=None)[0]
    return float(slope / least), float(least)


def critical_batch_of_loss(loss: float) -> float:
    """Tokens: 2e8 / L^(1/0.21), for language models (Kaplan et al. 2020, arXiv:2001.08361, equation 1.4)."""
    return 2e8 / loss ** (1 / 0.21)
