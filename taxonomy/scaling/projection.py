"""Starting points by variable projection: exponents on a grid, and for each the best non-negative terms.

Once the exponents are fixed, E + A u + B v is linear in what is left, so that a search over five dimensions starts from one over
two (Golub & Pereyra 1973). Errors are relative and weighted down where they are large, so that outliers do not decide.
"""

import itertools

import numpy as np

GRID = np.geomspace(0.08, 1.6, 9)
_REWEIGHTINGS = 4
_ZERO = 1e-6  # of the least loss: what stands for a term of zero, for it has to have a logarithm


def projected_starts(x_R, y_R, loss_R, tied: bool = False, best: int = 6) -> list[tuple[tuple[float, ...], np.ndarray]]:
    """The `best` of all pairs of exponents (all equal pairs if `tied`), each with (A, B, E) > 0 for terms exp(-exponent * x)."""
    pairs = np.array([(one, one) for one in GRID] if tied else list(itertools.product(GRID, GRID)))
    alpha, beta = pairs.T[..., None]
    columns = np.stack([np.exp(-alpha * x_R), np.exp(-beta * y_R), np.ones((len(pairs), len(loss_R)))], axis=2) / loss_R[:, None]
    weights = np.ones((len(pairs), len(loss_R)))
    for _ in range(_REWEIGHTINGS):
        terms = _non_negative(columns, weights)
        errors = np.abs(np.einsum("grk,gk->gr", columns, terms) - 1)
        weights = 1 / np.maximum(errors, 1e-3)
    ranked = np.argsort(errors.sum(1))[:best]
    return [(tuple(pairs[one][: 1 if tied else 2]), np.maximum(terms[one], _ZERO * loss_R.min())) for one in ranked]


def _non_negative(columns_GRK: np.ndarray, weights_GR: np.ndarray) -> np.ndarray:
    """Weighted least squares of ones by few columns, (G, K) and non-negative: the best of the solutions of all subsets."""
    square = np.einsum("grk,gr,grl->gkl", columns_GRK, weights_GR, columns_GRK)
    right = np.einsum("grk,gr->gk", columns_GRK, weights_GR)
    best, explained = np.zeros_like(right), np.zeros(len(right))
    for size in range(1, right.shape[1] + 1):
        for chosen in itertools.combinations(range(right.shape[1]), size):
            some = list(chosen)
            inner = square[:, some][:, :, some] + 1e-13 * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            solved = np.linalg.solve(inner, right[:, some][..., None])[..., 0]
            gain = (right[:, some] * solved).sum(1)
            better = (solved >= 0).all(1) & (gain > explained)
            explained = np.where(better, gain, explained)
            full = np.zeros_like(right)
            full[:, some] = solved
            best = np.where(better[:, None], full, best)
    return best
