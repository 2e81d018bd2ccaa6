"""How many problems would be solved with some samples and some submissions, estimated from more samples than that.

All take, for one problem, `samples` programs drawn, of which `solving` are right; a mean over problems is the caller's.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import scipy.stats

from taxonomy.inference.selection import chosen, clusters


def pass_at_k(samples: int, solving: int, k: int) -> float:
    """The probability that one of k of the samples is right: 1 - C(samples - solving, k) / C(samples, k).

    Chen et al. 2021, arXiv:2107.03374, eq. 1, as a product, which cannot overflow. Raises ValueError.
    """
    _check(samples=(k, samples), solving=(0, solving, samples), k=(1, k, samples))
    if samples - solving < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - solving + 1, samples + 1)))


def n_at_k(samples: int, passing: int, solving: int, n: int, k: int) -> float:
    """The probability that one of at most n submissions is right, drawn of those among k samples that pass the example tests.

    What the algorithm of `n_at_k_sampled` tends to. `passing` samples pass, all right ones among them. Raises ValueError.
    """
    _check(samples=(k, samples), passing=(0, passing, samples), solving=(0, solving, passing), n=(1, n), k=(1, k, samples))
    drawn = np.arange(min(k, passing) + 1)
    probability = scipy.stats.hypergeom(samples, passing, k).pmf(drawn)
    # One more submission is wrong, too, when all before it were.
    submissions = np.arange(min(n, passing))
    missed = np.cumprod([1.0, *(np.maximum(passing - solving - submissions, 0) / (passing - submissions))])
    return float((probability * (1 - missed[np.minimum(drawn, n)])).sum())


def n_at_k_sampled(samples: int, passing: int, solving: int, n: int, k: int, subsamples: int, seed: int = 0) -> float:
    """`n_at_k` by drawing: Li et al. 2022, arXiv:2203.07814, algorithm 1."""
    _check(samples=(k, samples), passing=(0, passing, samples), solving=(0, solving, passing), n=(1, n), k=(1, k, samples))
    generator = np.random.default_rng(seed)
    drawn = generator.hypergeometric(passing, samples - passing, k, subsamples)
    right = generator.hypergeometric(solving, passing - solving, np.minimum(drawn, n))
    return float((right > 0).mean())


def n_at_k_clustered(
    behaviours: Sequence[Hashable | None], solving: Sequence[bool], n: int, k: int, subsamples: int, seed: int = 0
) -> float:
    """The same where submissions are chosen by clusters of behaviour, None for samples that do not pass the example tests."""
    _check(solving=(len(behaviours), len(solving), len(behaviours)), n=(1, n), k=(1, k, len(behaviours)))
    generator, solved = np.random.default_rng(seed), 0
    for _ in range(subsamples):
        drawn = generator.choice(len(behaviours), k, replace=False)
        submitted = chosen(clusters([behaviours[i] for i in drawn]), n, generator)
        solved += any(solving[drawn[i]] for i in submitted)
    return solved / subsamples


def _check(**ranges: tuple[int, ...]) -> None:
    """Each name's (least, value) or (least, value, most)."""
    for name, (least, value, *most) in ranges.items():
        if value < least or (most and value > most[0]):
            raise ValueError(f"{name}={value} must be at least {least}" + (f" and at most {most[0]}" if most else ""))
