"""Learning rates and batch sizes as functions of progress. Durations are in steps, in tokens or in percent of the run."""

import dataclasses
import itertools
import math
import re

from taxonomy.errors import UserError
from taxonomy.registry import component


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is, and how far it will go."""

    step: int
    tokens: int
    total_steps: int
    total_tokens: int


@dataclasses.dataclass(frozen=True)
class Duration:
    """A stretch of training: "2000 steps", "375e6 tokens" or "5%"."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str, where: str = "duration") -> "Duration":
        found = re.fullmatch(r"\s*([0-9.eE+]+)\s*(steps?|tokens?|%)\s*", str(text))
        try:
            return cls(float(found[1]), found[2].rstrip("s"))
        except (TypeError, ValueError):
            raise UserError(f"{where}: expected a duration such as '2000 steps', '375e6 tokens' or '5%', got {text!r}") from None

    def fraction(self, progress: Progress) -> float:
        """Progress in units of this duration: 1 at its end."""
        done, total = {
            "step": (progress.step, self.amount),
            "token": (progress.tokens, self.amount),
            "%": (progress.step, self.amount / 100 * progress.total_steps),
        }[self.unit]
        return done / total if total else math.inf

    def steps(self, total_steps: int, tokens_per_step: float) -> int:
        """The nearest whole number of steps, at least one."""
        amount = {"step": 1, "token": 1 / tokens_per_step, "%": total_steps / 100}[self.unit] * self.amount
        return max(1, round(amount))


class Schedule:
    """A learning rate for each moment. Subclasses have `peak` and `warmup`; `after` is the multiplier past the warmup."""

    def check(self) -> None:
        if not self.peak > 0:
            raise ValueError(f"peak={self.peak} must be above 0")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("warmup", "until", "decay", "hold") and value is not None:
                try:
                    duration = Duration.parse(value, f.name)
                except UserError as e:
                    raise ValueError(str(e)) from None
                if f.name in ("decay", "hold") and not duration.amount:
                    raise ValueError(f"{f.name}={value!r} must be above 0")

    def __call__(self, progress: Progress) -> float:
        """The learning rate of the step that comes after `progress`."""
        # The first step is not wasted on a rate of zero.
        next_step = dataclasses.replace(progress, step=progress.step + 1, tokens=progress.tokens + 1)
        rising = Duration.parse(self.warmup).fraction(next_step)
        return self.peak * min(1.0, rising) * self.after(progress)

    def after(self, progress: Progress) -> float:
        raise TypeError("a subclass defines the shape")

    def _decayed(self, progress: Progress) -> float:
        """From 0 at the end of the warmup to 1 at `until` (the end of the run when None)."""
        end = Duration.parse(self.until or "100%")
        warmup = Duration.parse(self.warmup)
        now, start = end.fraction(progress), _fraction_at_end(warmup, end, progress)
        return min(1.0, max(0.0, (now - start) / (1.0 - start))) if start < 1.0 else 1.0


def _fraction_at_end(inner: Duration, outer: Duration, progress: Progress) -> float:
    """Where `inner` ends, in units of `outer`. Different units are compared at the run's mean batch."""
    per_step = progress.total_tokens / max(1, progress.total_steps)
    steps = {"step": 1.0, "token": 1 / per_step, "%": progress.total_steps / 100}
    return inner.amount * steps[inner.unit] / (outer.amount * steps[outer.unit]) if outer.amount else 1.0


@component("cosine", kind="schedule", paper="Loshchilov & Hutter 2016, arXiv:1608.03983")
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warmup, then half a cosine down to `final` times the peak at `until` or the end, constant afterwards."""

    peak: float
    warmup: str = "0 steps"
    final: float = 0.0
    until: str | None = None

    def after(self, progress: Progress) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * self._decayed(progress)))


@component("linear", kind="schedule", paper="Devlin et al. 2018, arXiv:1810.04805, appendix A.2")
@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
    """Linear warmup, then a line (or its `power`) down to `final` times the peak at `until` or the end."""

    peak: float
    warmup: str = "0 steps"
    final: float = 0.0
    until: str | None = None
    power: float = 1.0

    def after(self, progress: Progress) -> float:
        return self.final + (1 - self.final) * (1 - self._decayed(progress)) ** self.power


@component("inverse_sqrt", kind="schedule", paper="Vaswani et al. 2017, arXiv:1706.03762, eq. 3; Raffel et al. 2019, section 3.1.2")
@dataclasses.dataclass(frozen=True)
class InverseSqrt(Schedule):
    """Linear warmup, the peak until `hold`, then the peak times sqrt(hold / now)."""

    peak: float
    hold: str
    warmup: str = "0 steps"

    def after(self, progress: Progress) -> float:
        return min(1.0, max(1e-12, Duration.parse(self.hold).fraction(progress)) ** -0.5)


@component("wsd", kind="schedule", paper="Hu et al. 2024, arXiv:2404.06395, section 4")
@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """Linear warmup, constant, then a line down to `final` times the peak over the last `decay` of the run."""

    peak: float
    warmup: str = "0 steps"
    decay: str = "20%"
    final: float = 0.0

    def after(self, progress: Progress) -> float:
        share = min(1.0, _fraction_at_end(Duration.parse(self.decay), Duration(100, "%"), progress))
        done = progress.step / max(1, progress.total_steps)
        return 1 - (1 - self.final) * max(0.0, (done - (1 - share)) / share)


@component("constant", kind="schedule", paper="")
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """Linear warmup, then the peak."""

    peak: float
    warmup: str = "0 steps"

    def after(self, progress: Progress) -> float:
        return 1.0


@component("stages", kind="schedule", paper="DeepSeek-AI 2024, arXiv:2401.02954, section 2.3; arXiv:2412.19437, section 4.2")
@dataclasses.dataclass(frozen=True)
class StagedRate(Schedule):
    """Linear warmup, then shares of the peak: "0.3 at 60%" jumps there, "0.3 by 60%" is reached by half a cosine.

    `later` has these in order, as in "1 by 10e12 tokens, 0.1 by 14e12 tokens, 0.03 at 14.5e12 tokens".
    """

    peak: float
    later: str
    warmup: str = "0 steps"

    def check(self) -> None:
        super().check()
        highest = max(share for share, _, _ in self._parsed())
        if highest > 1:
            raise ValueError(f"later={self.later!r} has {highest:g}: shares of the peak are at most 1")

    def _parsed(self) -> list[tuple[float, bool, Duration]]:
        """Each stage's share, whether it is reached gradually, and when it is reached."""
        stages = []
        for text in self.later.split(","):
            share, way, when = (*text.split(maxsplit=2), "", "", "")[:3]
            try:
                stages.append((float(share), {"at": False, "by": True}[way], Duration.parse(when)))
            except (KeyError, ValueError, UserError):
                message = f"later={self.later!r} must look like '1 by 10e12 tokens, 0.1 by 14e12 tokens, 0.03 at 95%'"
                raise ValueError(message) from None
        return stages

    def after(self, progress: Progress) -> float:
        share, since = 1.0, Duration(0, "step")
        for goal, gradual, when in self._parsed():
            now = when.fraction(progress)
            if now < 1 and gradual:
                start = _fraction_at_end(since, when, progress)
                done = max(0.0, now - start) / (1 - start) if start < 1 else 1.0
                return goal + (share - goal) * 0.5 * (1 + math.cos(math.pi * done))
            if now < 1:
                return share
            share, since = goal, when
        return share


@component("linear", kind="batch_ramp", paper="Brown et al. 2020, arXiv:2005.14165, appendix B")
@dataclasses.dataclass(frozen=True)
class LinearRamp:
    """From `start` tokens to the full batch in `increments` equal rises over a number of tokens."""

    start: float
    over: str
    increments: int = 16

    def check(self) -> None:
        if Duration.parse(self.over).unit != "token":
            raise ValueError(f"over={self.over!r} must be in tokens")
        if self.increments < 1 or self.start <= 0:
            raise ValueError(f"start={self.start:g} and increments={self.increments} must be above 0")

    def stages(self, full: int, context: int) -> list[tuple[int, int]]:
        """(sequences, steps) of each stage before the full batch of `full` sequences."""
        first = max(1, round(self.start / context))
        per_stage = Duration.parse(self.over).amount / self.increments
        sizes = [first + (full - first) * i // self.increments for i in range(self.increments)]
        return [(size, max(1, round(per_stage / (size * context)))) for size in sizes if size < full]


@component("stages", kind="batch_ramp", paper="Chowdhery et al. 2022, arXiv:2204.02311, section 5")
@dataclasses.dataclass(frozen=True)
class Stages:
    """`first` sequences, then others from given steps on: "1024 from 50000, 2048 from 115000"; the last is the full batch."""

    first: int
    later: str

    def check(self) -> None:
        sizes, starts = zip((self.first, 0), *self._parsed(), strict=True)
        if min(sizes) < 1:
            raise ValueError(f"first={self.first} and all later batches must be above 0")
        if any(a >= b for a, b in itertools.pairwise(starts)):
            raise ValueError(f"later={self.later!r} must name later and later steps")

    def _parsed(self) -> list[tuple[int, int]]:
        parts = [re.fullmatch(r"(\d+) from (\d+)", p.strip()) for p in self.later.split(",")]
        if not all(parts):
            raise ValueError(f"later={self.later!r} must look like '1024 from 50000, 2048 from 115000'")
        return [(int(p[1]), int(p[2])) for p in parts]

    def stages(self, full: int, context: int) -> list[tuple[int, int]]:
        sizes, starts = zip((self.first, 0), *self._parsed(), strict=True)
        return [(size, end - start) for size, start, end in zip(sizes, starts, starts[1:], strict=False)]


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """How many sequences each step takes: stages of (sequences, steps), then the full batch for ever."""

    full: int
    stages: tuple[tuple[int, int], ...] = ()

    def sequences(self, step: int) -> int:
        """Sequences of the step."""
        for size, steps in self.stages:
            if step < steps:
                return size
            step -= steps
        return self.full

    def before(self, step: int) -> int:
        """Sequences of all steps before this one: the position in the data."""
        seen = 0
        for size, steps in self.stages:
            seen += size * min(step, steps)
            step -= min(step, steps)
        return seen + step * self.full

    def steps_for(self, sequences: float) -> int:
        """The first number of steps that takes at least so many sequences."""
        steps = 0
        for size, count in self.stages:
            needed = math.ceil(sequences / size)
            if needed <= count:
                return steps + needed
            steps, sequences = steps + count, sequences - size * count
        return steps + math.ceil(sequences / self.full)
