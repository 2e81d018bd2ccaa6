"""Programming problems made from the standard library: what a function says of itself, and what it gives for what.

A problem is a function of a held-out module that computes: its signature and docstring are given, its body is wanted, and calls of
the true function are the tests, few to be shown as examples, others hidden. Nothing is known of a function but that it exists, so
it is run, in the sandbox, on inputs of all simple kinds, and kept where it gives the same plain values twice, in another order and
with other hashes of strings.
"""

import ast
import collections
import dataclasses
import doctest
import itertools
import random
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from taxonomy.data.functions import StandardLibraryFunctions, function_pairs
from taxonomy.data.sources import StandardLibrarySource
from taxonomy.data.storage import Split
from taxonomy.inference import call_inputs, sandbox
from taxonomy.inference.sandbox import Limits, Outcome, Program

LIMITS = Limits()
MOST_ARGUMENTS = 3
EXAMPLES, HIDDEN, PROBES = 3, 20, 50  # probes: Li et al. 2022, arXiv:2203.07814, section 4.6
LEAST_HIDDEN = 5
TOGETHER = 16  # functions looked at before it is asked whether there are problems enough


class Case(NamedTuple):
    """A call, and the text of its value."""

    call: str
    value: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a program should do. `prompt` is the beginning of its text, `solution` the true rest.

    examples: tests that may be used to choose among programs. hidden: tests that say whether one is right. probes: calls without
    values, made of the examples' alone, to see which programs behave alike.
    """

    name: str
    module: str | None
    prompt: str
    solution: str
    examples: tuple[Case, ...]
    hidden: tuple[Case, ...]
    probes: tuple[str, ...]

    @property
    def entry(self) -> str:
        return self.name.rpartition(".")[2]

    def program(self, rest: str) -> Program:
        """The program that a text behind the prompt makes."""
        return Program(self.prompt + rest, self.entry, self.module)


def library_problems(
    splits: Sequence[Split] = ("test", "validation"), count: int | None = None, workers: int | None = None
) -> list[Problem]:
    """The first `count` problems (all, where None) of the modules of some splits, in the order of the modules."""
    held_out = itertools.chain.from_iterable(map(functions, splits))
    found: list[Problem] = []
    while (count is None or len(found) < count) and (some := list(itertools.islice(held_out, TOGETHER))):
        found += filter(None, made(some, workers))
    return found[:count]


def made(some: Sequence["Function"], workers: int | None = None) -> list[Problem | None]:
    """The problem that each function makes; None when it does not compute, or only what a program that does nothing would.

    Threads wait for the sandbox and do no more: Python's parser is not made for several.
    """
    found: list[Problem | None] = [None] * len(some)
    waiting = [(place, steps, next(steps)) for place, steps in enumerate(map(_problem, some))]
    while waiting:
        outcomes = sandbox.parallel(
            lambda one: sandbox.run(one[2].program, one[2].calls, LIMITS, seed=one[2].seed), waiting, workers
        )
        again = []
        for (place, steps, _), result in zip(waiting, outcomes, strict=True):
            try:
                again.append((place, steps, steps.send(result)))
            except StopIteration as end:
                found[place] = end.value
        waiting = again
    return found


class Function(NamedTuple):
    """A function of a module, the number of arguments it needs, and the halves of its text."""

    module: str
    name: str
    arguments: int
    prompt: str
    body: str


def functions(split: Split) -> Iterator[Function]:
    """Functions of the split's pairs that stand in modules by themselves, undecorated, and can be called by position alone."""
    pairs = set(StandardLibraryFunctions().documents(split))
    for path, text in StandardLibrarySource().files(split):
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for pair in function_pairs(text):
            (node,) = ast.parse(pair.input).body
            alone = any(line.startswith(pair.input.partition("\n")[0]) for line in text.splitlines())
            if pair not in pairs or not alone or not isinstance(node, ast.FunctionDef) or node.decorator_list:
                continue
            given = [*node.args.posonlyargs, *node.args.args]
            needed = max(1, len(given) - len(node.args.defaults))
            if needed <= min(len(given), MOST_ARGUMENTS) and None not in node.args.kw_defaults and given[0].arg != "self":
                yield Function(module, node.name, needed, pair.input, pair.target)


class _Run(NamedTuple):
    program: Program
    calls: list[str]
    seed: int


def _problem(function: Function) -> Generator[_Run, list[Outcome], Problem | None]:
    """Asks for runs, takes what came of them, and returns what `made` says."""
    name = f"{function.module}.{function.name}"
    generator = random.Random(name)
    program = Program(function.prompt + function.body, function.name, function.module)
    told, words = _told(function), _words(function)

    kinds = [kinds for kinds in call_inputs.combinations(function.arguments) for _ in range(3)]
    tried = [call_inputs.drawn(one, generator, words) for one in kinds]
    outcomes = yield _Run(program, _texts(told + tried), 0)
    values: dict[tuple[str, ...], set[str]] = collections.defaultdict(set)
    for one, outcome in zip(kinds, outcomes[len(told) :], strict=True):
        if outcome.kind == "value":
            values[one].add(outcome.text)
    known = [call for call, outcome in zip(told, outcomes, strict=False) if outcome.kind == "value"]
    if not known and not values:
        return None

    best = max(values, key=lambda one: len(values[one]), default=None)
    calls = known[:]
    for _ in range(3 * HIDDEN):
        if best is not None:
            calls.append(call_inputs.drawn(best, generator, words))
        if known:
            calls.append(call_inputs.mutated(generator.choice(known), generator))
    texts = list(dict.fromkeys(_texts(calls)))
    first = yield _Run(program, texts, 0)
    second = yield _Run(program, texts[::-1], 1)
    if any(one.kind == "value" and one != other for one, other in zip(first, second[::-1], strict=True)):
        return None
    tests = [Case(call, one.text) for call, one in zip(texts, first, strict=True) if one.kind == "value"]
    return _made(name, function, tests, generator)


def _made(name: str, function: Function, tests: list[Case], generator: random.Random) -> Problem | None:
    """The problem, if the tests tell it from programs that do nothing."""
    seen: set[str] = set()
    examples = tuple(test for test in tests if not (test.value in seen or seen.add(test.value)))[:EXAMPLES]
    rest = [test for test in tests if test not in examples]
    # Values that are rare come first, so that one alone is not right most of the time.
    counts = collections.Counter(test.value for test in rest)
    hidden = tuple(sorted(rest, key=lambda test: counts[test.value])[:HIDDEN])
    if len(examples) < 2 or len(hidden) < LEAST_HIDDEN or _trivial(hidden, function.arguments):
        return None
    known = [ast.literal_eval(test.call) for test in examples]
    probes = dict.fromkeys(_texts(call_inputs.mutated(generator.choice(known), generator) for _ in range(2 * PROBES)))
    return Problem(name, function.module, function.prompt, function.body, examples, hidden, tuple(probes)[:PROBES])


def _trivial(tests: Sequence[Case], arguments: int) -> bool:
    """Whether one value is right more than half of the time, or an argument is always."""
    values = [test.value for test in tests]
    given = [ast.literal_eval(test.call) for test in tests]
    same = any(all(_is(call[i], value) for call, value in zip(given, values, strict=True)) for i in range(arguments))
    return same or max(collections.Counter(values).values()) > len(values) / 2


def _is(argument: object, text: str) -> bool:
    try:
        return ast.literal_eval(text) == argument
    except (ValueError, SyntaxError):  # a set without elements, or what a call did to its arguments
        return False


def _told(function: Function) -> list[call_inputs.Call]:
    """Calls that stand in the docstring as examples."""
    (node,) = ast.parse(function.prompt).body
    calls = []
    try:
        examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
        for inner in itertools.chain.from_iterable(ast.walk(ast.parse(example.source)) for example in examples):
            own = isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == function.name
            if own and not inner.keywords:
                calls.append(tuple(ast.literal_eval(argument) for argument in inner.args))
    except (ValueError, SyntaxError):
        pass
    return calls


def _words(function: Function) -> list[str]:
    """Short texts that the function mentions."""
    constants = [node.value for node in ast.walk(ast.parse(function.prompt + function.body)) if isinstance(node, ast.Constant)]
    return sorted({value for value in constants if isinstance(value, str) and 0 < len(value) <= 20})


def _texts(calls) -> list[str]:
    return [repr(call) for call in calls]
