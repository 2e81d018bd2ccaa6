"""Straight lines in logarithms, y = coefficient x^exponent, for many samples of y at once."""

import numpy as np


def fit(x_K: np.ndarray, y_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and exponents (B,) by least squares of logarithms; what is not finite does not count. NaN for fewer than two."""
    log_x, log_y = np.log(x_K), np.log(np.atleast_2d(y_BK))
    there = np.isfinite(log_y)
    count = there.sum(1)
    log_y = np.where(there, log_y, 0.0)
    with np.errstate(all="ignore"):
        mean_x, mean_y = (there * log_x).sum(1) / count, log_y.sum(1) / count
        away = np.where(there, log_x - mean_x[:, None], 0.0)
        spread = (away**2).sum(1)
        exponent = np.where((count > 1) & (spread > 1e-12), (away * (log_y - mean_y[:, None])).sum(1) / spread, np.nan)
        return np.exp(mean_y - exponent * mean_x), exponent
