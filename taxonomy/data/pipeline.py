"""Fixed windows over one flat array of tokens. A batch is a pure function of (seed, index), so the state is a number.

A batch is a dict of arrays [B, T]: `tokens`; `targets`, the token that follows each; `positions`, counted from the start of
the window or of the document; `segments`, which number the documents of a window from 1 (0 is padding).
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from taxonomy.errors import UserError

Batch = dict[str, np.ndarray]
# Which rows of a batch of so many a process reads; `range`, of a run in one process, is all of them.
Own = Callable[[int], Iterable[int]]


class Windows:
    """Training windows in an order shuffled anew each epoch.

    Sequence i of the endless stream belongs to epoch i // len(windows). Windows start every `context` tokens and hold one
    token more than the context, so an epoch predicts every token after the first exactly once; the last tokens of the split,
    fewer than `context`, fill no window and are left out.
    """

    def __init__(self, tokens: np.ndarray, context: int, seed: int, document_start: int):
        """`tokens` [N] in memory or mapped. Raises UserError when the split is shorter than one window."""
        self._tokens_N, self.context, self.document_start = tokens, context, document_start
        if len(self) < 1:
            raise UserError(
                f"data: the train split has {len(tokens)} tokens, fewer than one window of {context + 1} "
                f"(context={context} and the last target): use more text or a shorter context"
            )
        self._order = shuffled(len(self), seed)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return max(0, len(self._tokens_N) - 1) // self.context

    def batch(self, first: int, count: int, own: Own = range) -> Batch:
        """Sequences first..first+count of the stream, int32 [count, context], or those of them that are this process's own."""
        return self.rows(chosen(first, count, own))

    def rows(self, indices: Iterable[int]) -> Batch:
        """These sequences of the stream."""
        windows_B = np.array([self._order[index] for index in indices], np.int64)
        place_BW = windows_B[:, None] * self.context + np.arange(self.context + 1)
        return split_window(self._tokens_N[place_BW], self.document_start)

    def stream(self, schedule: Iterable[tuple[int, int]], own: Own = range, prefetch: int = 2) -> Iterator[Batch]:
        """The batches of a schedule of (first, count), see `ahead`."""
        return ahead(lambda first, count: self.batch(first, count, own), schedule, prefetch)


def ahead(batch: Callable[[int, int], Batch], schedule: Iterable[tuple[int, int]], prefetch: int) -> Iterator[Batch]:
    """The batches of a schedule of (first, count), made by a background thread that keeps `prefetch` of them ready.

    What is raised there, or by the schedule, is raised here in its turn. Closing the iterator ends the thread.
    """
    steps = iter(schedule)

    def make() -> Batch | None:
        step = next(steps, None)
        return None if step is None else batch(*step)

    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        ready = collections.deque(pool.submit(make) for _ in range(max(1, prefetch)))
        while (made := ready.popleft().result()) is not None:
            ready.append(pool.submit(make))
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def shuffled(items: int, seed: int) -> Sequence[int]:
    """An endless stream of the numbers below `items`, each once an epoch, every epoch in an order of its own."""
    import grain

    return grain.MapDataset.range(items).seed(seed).shuffle().repeat(None)


def chosen(first: int, count: int, own: Own) -> list[int]:
    """Those of the sequences first..first+count that are a process's own. Raises ValueError when there is no such batch."""
    if first < 0 or count < 1:
        raise ValueError(f"batch(first={first}, count={count}): a batch has at least one sequence, and none before the first")
    return [first + row for row in own(count)]


def split_window(window_BW: np.ndarray, document_start: int) -> Batch:
    """Inputs, targets, positions and segments, int32 [B, T], of windows of T + 1 tokens."""
    window_BW = window_BW.astype(np.int32)
    tokens_BT, targets_BT = window_BW[:, :-1], window_BW[:, 1:]
    starts_BT = tokens_BT == document_start
    # A window may begin inside a document: its first token opens segment 1 either way.
    starts_BT[:, 0] = True
    place_T = np.arange(tokens_BT.shape[1], dtype=np.int32)
    start_BT = np.maximum.accumulate(np.where(starts_BT, place_T, 0), axis=1)
    return {
        "tokens": np.ascontiguousarray(tokens_BT),
        "targets": np.ascontiguousarray(targets_BT),
        "positions": (place_T - start_BT).astype(np.int32),
        "segments": np.cumsum(starts_BT, axis=1, dtype=np.int32),
    }


def evaluation_batches(tokens: np.ndarray, context: int, batch_size: int, document_start: int) -> Iterator[Batch]:
    """Batches [batch_size, context] over `tokens` [N] in order, every token after the first a target exactly once.

    Adds `weights`, float32 [B, T]: 1 for a target, 0 for the padding at the end, where segments and all else are 0. Raises
    UserError when there is nothing to predict.
    """
    targets = len(tokens) - 1
    if targets < 1:
        raise UserError(f"data: the split to evaluate has {len(tokens)} tokens; at least 2 are needed to predict one")
    for first in range(0, targets, batch_size * context):
        part = np.asarray(tokens[first : first + batch_size * context + 1])
        padded = np.zeros(batch_size * context + 1, np.int32)
        padded[: len(part)] = part
        place_BW = np.arange(batch_size)[:, None] * context + np.arange(context + 1)
        batch = split_window(padded[place_BW], document_start)
        real_BT = place_BW[:, :-1] < len(part) - 1
        batch = {name: np.where(real_BT, array, 0).astype(np.int32) for name, array in batch.items()}
        yield batch | {"weights": real_BT.astype(np.float32)}
