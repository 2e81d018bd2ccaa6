"""Several datasets in one stream of examples, each drawn as often as its weight says."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from taxonomy import registry, weights
from taxonomy.data.pipeline import Batch, Own, ahead, chosen
from taxonomy.data.prepare import Existing, Prepared, learned, prepare, train_texts
from taxonomy.data.storage import Split, digest
from taxonomy.data.tokenizers import sample_blocks
from taxonomy.errors import UserError
from taxonomy.registry import Component, component

BLOCK = 2**16
Part = Annotated[Component, ("source",)]


@component("mixture", kind="source", paper="Raffel et al. 2019, arXiv:1910.10683, section 3.5.2")
@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources; each training example comes from one, drawn in proportion to `weights` (equal where none are given)."""

    parts: tuple[Part, ...]
    weights: tuple[float, ...] = ()

    def check(self) -> None:
        weights.check(self.parts, self.weights, "source", "mixture(stdlib, jsonl(glob='data/*.jsonl'), weights=(3, 1))")
        if any(part.name == "mixture" for part in self.parts):
            raise ValueError("a mixture in a mixture; give all sources and their weights in one")
        for label, count in zip(self.labels, apportioned(self.shares), strict=True):
            if count == 0:
                raise ValueError(f"{label} has less than one in {BLOCK} of the weight, so it is never drawn")

    @functools.cached_property
    def sources(self) -> tuple[Any, ...]:
        return tuple(map(registry.instantiate, self.parts))

    @property
    def labels(self) -> tuple[str, ...]:
        return weights.labels(self.parts)

    @property
    def shares(self) -> np.ndarray:
        return weights.shares(self.parts, self.weights)

    def fingerprint(self) -> str:
        return digest("mixture", self.shares.tolist(), [source.fingerprint() for source in self.sources])


class PreparedMixture:
    """The prepared parts of a mixture, with one tokenizer. `shares` [parts] of the examples come from each."""

    def __init__(self, parts: Sequence[Prepared], labels: tuple[str, ...], shares: np.ndarray):
        self.parts, self.labels, self.shares = tuple(parts), labels, shares
        self.tokenizer = parts[0].tokenizer

    def tokens(self, split: Split) -> np.ndarray:
        """The tokens of all parts, one after the other, in memory: for held-out splits."""
        return np.concatenate([part.tokens(split) for part in self.parts])

    @property
    def separator(self) -> int | None:
        """The id between the halves of a pair, the same in all parts that have any; None when no part has."""
        return next((part.separator for part in self.parts if part.separator is not None), None)

    @property
    def fingerprint(self) -> str:
        return digest(self.shares.tolist(), [part.fingerprint for part in self.parts])


def prepare_mixture(
    source: Mixture, recipe: Any, directory: Path, *, splits: Sequence[Split] = ("train", "validation"), report=print
) -> PreparedMixture:
    """Every part prepared on its own, so that one is not tokenised again when another changes; see `prepare`.

    A tokenizer that is learned is learned from all parts, from as much of each as its share.
    """
    size = recipe.sample_bytes()

    def sample() -> Iterator[str]:
        for one, portion in zip(source.sources, source.shares, strict=True):
            if size:
                yield from sample_blocks(train_texts(one), round(size * portion))

    tokenizer = learned(recipe, source.fingerprint(), sample, directory, report)
    prepared = []
    for label, one in zip(source.labels, source.sources, strict=True):
        with naming(label):
            prepared.append(prepare(one, Existing(tokenizer), directory, splits=splits, report=report))
    return PreparedMixture(prepared, source.labels, source.shares)


@contextlib.contextmanager
def naming(label: str) -> Iterator[None]:
    """What is wrong in the body is said to be wrong in this part."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (in {label})") from None


def apportioned(shares: np.ndarray, seats: int = BLOCK) -> np.ndarray:
    """Whole numbers of sum `seats` nearest to the shares, int64 [parts] (largest remainders)."""
    exact = shares * seats
    counts = np.floor(exact).astype(np.int64)
    first = np.argsort(counts - exact, kind="stable")[: seats - counts.sum()]
    counts[first] += 1
    return counts


class Mixed:
    """The examples of several streams in one.

    Which part an example comes from is drawn without replacement from blocks of `BLOCK` examples, in each of which the parts have
    their shares; so example i is the n-th of its part for an n that follows from (seed, i) alone, each part goes through its own
    epochs, and the state is a number.
    """

    def __init__(self, streams: Sequence[Any], shares: np.ndarray, seed: int, objectives: int = 1):
        """`streams` with a length and `rows`; `objectives` that each has, see `training.parts`."""
        self._streams, self._seed, self._objectives = streams, seed, objectives
        self._counts = apportioned(shares)
        self._block = functools.lru_cache(maxsize=4)(self._drawn)

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of every example of a block, and which one of its part it is, both [BLOCK]."""
        part_N = np.random.default_rng((self._seed, block)).permutation(np.repeat(np.arange(len(self._counts)), self._counts))
        own_N = np.zeros(BLOCK, np.int64)
        for part, count in enumerate(self._counts):
            own_N[part_N == part] = block * count + np.arange(count)
        return part_N, own_N

    def rows(self, indices: Iterable[int]) -> Batch:
        """These examples of the stream. `part` says where each row comes from."""
        places = [(self._block(i // BLOCK), i % BLOCK) for i in indices]
        part_B, own_B = (np.array([block[k][place] for block, place in places]) for k in range(2))
        batch: Batch = {}
        for part, stream in enumerate(self._streams):
            rows = np.flatnonzero(part_B == part)
            if not len(rows):
                continue
            found = stream.rows(own_B[rows].tolist())
            found["part"] = found.get("part", 0) + np.full(len(rows), part * self._objectives, np.int32)
            for name, array in found.items():
                whole = batch.setdefault(name, np.zeros((len(part_B), *array.shape[1:]), array.dtype))
                whole[rows] = array
        return batch

    def batch(self, first: int, count: int, own: Own = range) -> Batch:
        """Examples first..first+count of the stream, or those of them that are this process's own."""
        return self.rows(chosen(first, count, own))

    def stream(self, schedule: Iterable[tuple[int, int]], own: Own = range, prefetch: int = 2) -> Iterator[Batch]:
        """The batches of a schedule of (first, count), see `pipeline.ahead`."""
        return ahead(lambda first, count: self.batch(first, count, own), schedule, prefetch)

    def epochs(self, examples: int) -> list[float]:
        """How often each part is gone through in so many examples."""
        return [examples * count / BLOCK / len(stream) for count, stream in zip(self._counts, self._streams, strict=True)]
