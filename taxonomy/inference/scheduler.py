"""Texts that are asked for at any time, written in slots by a thread of its own: who waits, who is written, and what each is told.

A thread owns the model. Others submit a `Job`, which is told of every piece of its texts as it is written, and may end it.
"""

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from taxonomy.inference import stops
from taxonomy.inference.decode import Tokenizer, text_after
from taxonomy.inference.slots import MOST, Row, Slots

_CALL = 0.05  # seconds that one call of the program may take, so that texts come smoothly


class Piece(NamedTuple):
    """More of text `index` of a job: what is certain of it by now, tokens it has in all, and what ended it, if anything has."""

    index: int
    text: str
    tokens: int
    ended: str | None


class Full(Exception):
    """No more texts can wait."""


class Closed(Exception):
    """Nothing is written any more."""


class Job:
    """Texts that are asked for together. `tell` is called in the scheduler's thread, with pieces, and at last with an exception
    if not all texts could be written: TimeoutError, `Closed`, or what the model raised."""

    def __init__(self, rows: Sequence[Row], stop: Sequence[str], tell: Callable[[Piece | Exception], None], seconds: float):
        self.rows, self.stop, self.tell, self.over = list(rows), stops.check(stop), tell, False
        self.begun: float | None = None
        self.submitted = time.monotonic()
        self.deadline = self.submitted + seconds


class _Text:
    """A text as it is written: its tokens, and how much of it was told."""

    def __init__(self, job: Job, index: int, tokenizer: Tokenizer):
        self.job, self.index, self._tokenizer = job, index, tokenizer
        self._tokens: list[int] = []
        self._shown = 0
        # The token that every prompt begins with is no text.
        self._prompt = list(job.rows[index].tokens[1:])
        self._before = tokenizer.decode(self._prompt)

    def add(self, tokens: Sequence[int], ended: str | None) -> Piece:
        """What is told of the text once it has these tokens too."""
        stop = self.job.stop
        text, found = stops.cut(self._with(tokens), stop)
        if found:
            # Tokens behind the end that came with it are not counted.
            count = next(n for n in range(1, len(tokens) + 1) if stops.cut(self._with(tokens[:n]), stop)[1])
            self._tokens += tokens[:count]
            return self._piece(text, "stop")
        self._tokens += tokens
        return self._piece(text if ended else stops.settled(text, stop), ended)

    def _with(self, tokens: Sequence[int]) -> str:
        return text_after(self._tokenizer, self._prompt, [*self._tokens, *tokens], self._before)

    def _piece(self, ready: str, ended: str | None) -> Piece:
        more, self._shown = ready[self._shown :], max(self._shown, len(ready))
        return Piece(self.index, more, len(self._tokens), ended)


class Scheduler:
    """Writes texts of at most `queue` waiting ones, first come first served."""

    def __init__(self, slots: Slots, tokenizer: Tokenizer, queue: int):
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._slots, self._tokenizer, self._queue = slots, tokenizer, queue
        self._waiting: collections.deque[tuple[Job, int]] = collections.deque()
        self._running: dict[int, _Text] = {}
        self._change = threading.Condition()
        self._closing = False
        self._seconds = _CALL  # of one step
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def busy(self) -> int:
        """Slots in use."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Texts that wait for one."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """The most texts a job can have."""
        return self._queue + self._slots.size

    def submit(self, job: Job) -> None:
        """Raises Full, or Closed."""
        with self._change:
            if self._closing or self.failure:
                raise Closed
            free = self._slots.size - len(self._running)
            if len(self._waiting) + len(job.rows) > self._queue + free:
                raise Full
            self._waiting.extend((job, i) for i in range(len(job.rows)))
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Nothing more is told to the job, and its slots are free at the next step."""
        with self._change:
            job.over = True
            self._change.notify()

    def close(self) -> None:
        """Ends all jobs and takes no more. Returns when the thread has ended."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait():
                self._sweep()
                self._admit()
                self._step()
        except Exception as error:
            self.failure = error
        finally:
            with self._change:
                self._closing = True
                left = {id(job): job for job in (*(t.job for t in self._running.values()), *(job for job, _ in self._waiting))}
                self._waiting.clear()
                self._running.clear()
            for job in left.values():
                self._give_up(job, self.failure or Closed())
            if self.failure:
                self.on_failure()

    def _wait(self) -> bool:
        """Until there is something to do; whether there will be."""
        with self._change:
            while not (self._waiting or self._running or self._closing):
                self._change.wait()
            return not self._closing

    def _sweep(self) -> None:
        """Jobs that were ended or have no time left leave."""
        now = time.monotonic()
        for job in {id(t.job): t.job for t in self._running.values()}.values():
            if now > job.deadline:
                self._give_up(job, TimeoutError())
        for slot in [slot for slot, text in self._running.items() if text.job.over]:
            self._slots.end(slot)
            del self._running[slot]
        with self._change:
            late = [job for job, _ in self._waiting if now > job.deadline]
        for job in late:
            self._give_up(job, TimeoutError())
        with self._change:
            self._waiting = collections.deque(one for one in self._waiting if not one[0].over)

    def _admit(self) -> None:
        """Gives free slots to those who wait."""
        while self._slots.free:
            with self._change:
                if not self._waiting:
                    return
                job, index = self._waiting[0]
            if not job.over:
                job.begun = job.begun or time.monotonic()
                text = _Text(job, index, self._tokenizer)
                self._running[self._slots.place(job.rows[index])] = text
            # Not before, so that it is told when it could not be placed.
            with self._change:
                self._waiting.popleft()

    def _step(self) -> None:
        if not self._running:
            return
        self._slots.read()
        began, many = time.monotonic(), int(min(MOST, max(1, _CALL / self._seconds)))
        found = self._slots.advance(many, until_free=bool(self._waiting))
        steps = max((len(written.tokens) for written in found.values()), default=0)
        self._seconds = (time.monotonic() - began) / max(1, steps)
        for slot, written in found.items():
            text = self._running[slot]
            if not text.job.over:
                piece = text.add(written.tokens, written.ended)
                text.job.tell(piece)
                if piece.ended and not written.ended:
                    self._slots.end(slot)
                    del self._running[slot]
            if written.ended:
                del self._running[slot]

    def _give_up(self, job: Job, error: Exception) -> None:
        if not job.over:
            job.over = True
            job.tell(error)
