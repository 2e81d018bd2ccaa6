"""Many programs for a problem, few submitted: sample, filter by the example tests, cluster by behaviour, choose.

Li et al. 2022, arXiv:2203.07814, sections 4.4 to 4.6. Where programs come from is the caller's: a function from prompts to what
follows them.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from taxonomy.inference import estimators, sandbox, selection
from taxonomy.inference.problems import Case, Problem
from taxonomy.inference.sandbox import Limits, Verdict

# Prompts in, what follows each of them out; equal prompts are asked for different texts.
Sampler = Callable[[Sequence[str]], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What came of a problem's samples, in the order in which they were drawn.

    verdicts: of the example tests. behaviours: what is compared for clusters, None where the examples failed. solving: whether
    examples and hidden tests pass. submitted: places of the samples that were chosen.
    """

    problem: Problem
    samples: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    behaviours: tuple[tuple[str, ...] | None, ...]
    solving: tuple[bool, ...]
    submitted: tuple[int, ...]

    @property
    def passing(self) -> int:
        return sum(verdict.kind == "passed" for verdict in self.verdicts)

    @property
    def clusters(self) -> int:
        return len(set(self.behaviours) - {None})

    @property
    def solved(self) -> bool:
        return any(self.solving[place] for place in self.submitted)


def solve(
    problems: Sequence[Problem],
    sampler: Sampler,
    *,
    samples: int,
    submissions: int = 10,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    workers: int | None = None,
    seed: int = 0,
) -> list[Attempt]:
    """One attempt a problem, of `samples` programs each, of which at most `submissions` are submitted."""
    texts = list(sampler([problem.prompt for problem in problems for _ in range(samples)]))
    if len(texts) != samples * len(problems):
        raise ValueError(f"sampler: gave {len(texts)} texts to {samples * len(problems)} prompts")
    return [
        attempt(problem, texts[i * samples : (i + 1) * samples], submissions, limits, workers, seed + i)
        for i, problem in enumerate(problems)
    ]


def attempt(
    problem: Problem,
    texts: Sequence[str],
    submissions: int,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    workers: int | None = None,
    seed: int = 0,
) -> Attempt:
    """Filters, clusters and chooses among the texts for one problem. Equal texts are run once, and count as often as they occur."""

    def tested(candidates: Sequence[str], tests: Sequence[Case]) -> dict[str, Verdict]:
        wanted = [test.value for test in tests]
        jobs = [(problem.program(text), [test.call for test in tests]) for text in candidates]
        outcomes = sandbox.run_all(jobs, limits, workers)
        return {text: sandbox.judge(one, wanted) for text, one in zip(candidates, outcomes, strict=True)}

    distinct = list(dict.fromkeys(texts))
    verdicts = tested(distinct, problem.examples)
    survivors = [text for text in distinct if verdicts[text].kind == "passed"]
    compared = survivors[: selection.MOST_CLUSTERED]
    outcomes = sandbox.run_all([(problem.program(text), problem.probes) for text in compared], limits, workers)
    behaviours = {text: selection.behaviour(one) for text, one in zip(compared, outcomes, strict=True)}
    # Nothing below this line may tell the choice anything: hidden tests say what it was worth.
    placed = tuple(behaviours.get(text) for text in texts)
    submitted = selection.chosen(selection.clusters(placed), submissions, np.random.default_rng(seed))
    right = {text for text, verdict in tested(survivors, problem.hidden).items() if verdict.kind == "passed"}
    return Attempt(
        problem,
        tuple(texts),
        tuple(verdicts[text] for text in texts),
        placed,
        tuple(text in right for text in texts),
        tuple(submitted),
    )


def summary(attempts: Sequence[Attempt], submissions: int, subsamples: int = 100) -> dict[str, float | int | dict[str, int]]:
    """Counts over all problems, and the mean share of problems solved: as submitted, and as estimated of the same samples."""
    samples = min((len(one.samples) for one in attempts), default=0)
    kinds = collections.Counter(verdict.kind for one in attempts for verdict in one.verdicts)
    k = max(1, samples // 2)  # fewer than all, so that there is something to draw
    counts = [(len(one.samples), one.passing, sum(one.solving)) for one in attempts]

    def mean(values) -> float:
        return float(np.mean(list(values))) if attempts else 0.0

    return {
        "problems": len(attempts),
        "samples": sum(len(one.samples) for one in attempts),
        "verdicts": dict(kinds.most_common()),
        "clusters": sum(one.clusters for one in attempts),
        "solved": sum(one.solved for one in attempts),
        "pass@1": mean(estimators.pass_at_k(drawn, solving, 1) for drawn, _, solving in counts),
        f"pass@{k}": mean(estimators.pass_at_k(drawn, solving, k) for drawn, _, solving in counts),
        f"{submissions}@{k} filtered": mean(estimators.n_at_k(*count, submissions, k) for count in counts),
        f"{submissions}@{k} clustered": mean(
            estimators.n_at_k_clustered(one.behaviours, one.solving, submissions, k, subsamples) for one in attempts
        ),
    }
