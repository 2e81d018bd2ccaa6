"""Where the rows of a batch come from, and the figures of each of these parts."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Parts:
    """The names of the datasets of a mixture and of the objectives of another; either is empty where nothing is mixed.

    A row's part counts the pairs of a dataset and an objective, the objectives of the first dataset first.
    """

    datasets: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Datasets and objectives, each at least one."""
        return max(1, len(self.datasets)), max(1, len(self.objectives))

    @property
    def count(self) -> int:
        return self.shape[0] * self.shape[1]

    def figures(self, nll: np.ndarray, correct: np.ndarray, weight: np.ndarray) -> dict[str, float]:
        """`loss/NAME` in nats and `accuracy/NAME` of every dataset and every objective that has tokens, from sums [count]."""
        sums = np.stack([nll, correct, weight]).astype(np.float64).reshape(3, *self.shape)
        found = {}
        for axis, names in ((2, self.datasets), (1, self.objectives)):
            for name, total, right, tokens in zip(names, *sums.sum(axis), strict=True) if len(names) > 1 else ():
                if tokens > 0:
                    found |= {f"loss/{name}": total / tokens, f"accuracy/{name}": right / tokens}
        return found


def apart(figures: dict[str, float], prefix: str = "") -> dict[str, dict[str, float]]:
    """The figures of each part by its name: {"R1": {"loss": ..., "accuracy": ...}}."""
    found: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        figure, slash, name = key.removeprefix(prefix).partition("/")
        if slash:
            found.setdefault(name, {})[figure] = value
    return found
