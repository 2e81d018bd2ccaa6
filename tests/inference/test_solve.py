"""The way from many programs to few, with a model that writes right, wrong and malicious ones."""

import ast
import inspect
import random
import textwrap

import numpy as np
import pytest

from taxonomy.data.functions import function_pairs
from taxonomy.inference import call_inputs, problems, selection, solve
from taxonomy.inference.problems import Case, Problem
from taxonomy.inference.sandbox import Limits, Outcome

LIMITS = Limits(seconds=8, cpu_seconds=1)


def toy() -> Problem:
    """The larger of two numbers, with examples that are easily met."""
    tests = tuple(Case(f"({a}, {b})", str(max(a, b))) for a, b in [(1, 2), (2, 1), (3, 3), (0, 9), (-1, 4), (12, 7)])
    probes = tuple(f"({a}, {b})" for a, b in [(5, 6), (-5, -6), (0, 0), (8, -3)])
    prompt = 'def larger(a, b):\n    """The larger of two numbers."""\n'
    return Problem("toy.larger", None, prompt, "    return max(a, b)\n", tests[:2], tests[2:], probes)


def library(function) -> problems.Function:
    pair = function_pairs(textwrap.dedent(inspect.getsource(function)))[0]
    arguments = len([p for p in inspect.signature(function).parameters.values() if p.default is p.empty])
    return problems.Function(function.__module__, function.__name__, max(1, arguments), pair.input, pair.target)


def made(function: problems.Function) -> Problem | None:
    return problems.made([function])[0]


RIGHT = ["    return max(a, b)\n", "    return a if a > b else b\n", "    return sorted([a, b])[1]\n"]
WRONG = ["    return 2\n", "    return abs(max(a, b)) if a * b > 0 else 7\n", "    return max(a, b, 0) if a else 5\n"]
FAILING = {
    "    return a\n": "wrong",
    "    return a +\n": "error",
    "    while True: pass\n": "timeout",
    "    import os\n    for _ in range(3): os.fork()\n": "refused",
    "    return open('/etc/passwd', 'a')\n": "refused",
    "    return 'x' * 2**40\n": "memory",
}


def test_the_largest_cluster_of_those_that_pass_is_submitted(programs):
    """Every wrong text is drawn more often than any right one; but the right ones agree."""
    texts = RIGHT + WRONG * 2 + list(FAILING)
    prompts = []

    def sampler(asked):
        prompts.extend(asked)
        return texts

    (found,) = solve.solve([toy()], sampler, samples=len(texts), submissions=1, limits=LIMITS)
    assert prompts == [toy().prompt] * len(texts)
    assert [verdict.kind for verdict in found.verdicts] == ["passed"] * 9 + list(FAILING.values())
    assert (found.passing, found.clusters, found.solved) == (9, 4, True)
    assert [place < 3 for place in found.submitted] == [True]
    assert found.solving == (True,) * 3 + (False,) * 12
    assert len(set(found.behaviours[:3])) == 1 and set(found.behaviours[9:]) == {None}
    result = solve.summary([found], 1, subsamples=300)
    assert result["verdicts"] == {"passed": 9, "refused": 2, "wrong": 1, "error": 1, "timeout": 1, "memory": 1}
    assert result["solved"] == 1 and result["pass@1"] == pytest.approx(3 / 15)
    assert result["1@7 clustered"] > result["1@7 filtered"]


def test_without_a_right_program_nothing_is_solved(programs):
    (found,) = solve.solve([toy()], lambda asked: WRONG, samples=3, submissions=10, limits=LIMITS)
    assert (found.passing, found.clusters, found.solved, len(found.submitted)) == (3, 3, False, 3)
    result = solve.summary([found], 10)
    assert result["solved"] == result["pass@1"] == result["10@1 clustered"] == 0
    with pytest.raises(ValueError, match=r"^sampler: gave 1 texts"):
        solve.solve([toy()], lambda asked: ["x"], samples=2)


def mutants(body: str) -> list[str]:
    """The body with one number, comparison or sum changed."""
    head = "def f():\n"
    whole, found = ast.parse(head + body), []
    for node in ast.walk(whole):
        before = dict(vars(node))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
        elif isinstance(node, ast.Compare):
            node.ops = [ast.NotEq() if isinstance(node.ops[0], ast.Eq) else ast.Eq()]
        elif isinstance(node, ast.BinOp):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        else:
            continue
        found.append(textwrap.indent(ast.unparse(whole.body[0].body), "    ") + "\n")
        vars(node).update(before)
    return found


def test_true_programs_are_found_among_their_mutants(programs):
    import calendar

    problem = made(library(calendar.leapdays))
    wrong = mutants(problem.solution)
    right = [problem.solution, problem.solution + "    # The same.\n", f"    y1 = y1\n{problem.solution}"]
    found = solve.attempt(problem, [*wrong, *right], 1, LIMITS)
    assert len(wrong) > 10 and found.solving[-3:] == (True,) * 3
    assert 3 <= found.passing < len(wrong) / 2  # the examples tell most of them
    assert found.solved


def test_problems_are_what_the_true_function_does(programs):
    import pickle

    problem = made(library(pickle.decode_long))
    assert problem == made(library(pickle.decode_long))
    assert problem.entry == "decode_long" and problem.prompt.startswith("def decode_long(data):\n")
    tests = problem.examples + problem.hidden
    assert len(problem.examples) == 3 and len(problem.hidden) >= 5 and len({test.call for test in tests}) == len(tests)
    for call, value in tests:
        assert repr(pickle.decode_long(*ast.literal_eval(call))) == value
    leaning = "    import pickle\n    return pickle.decode_long(data)\n"
    for nothing in ("    return 0\n", "    return data\n", "    pass\n", leaning):
        assert not solve.attempt(problem, [nothing], 1, LIMITS).solved


def test_functions_that_do_not_compute_are_no_problems(programs):
    import shutil

    def draw(x):
        """Draws."""
        import random

        return random.random() * x

    def order(x):
        """In the order of hashes."""
        return [*list(set(x))[:1], x]

    for function in (shutil.copyfile, shutil.move, draw, order):
        assert made(library(function)._replace(module="shutil")) is None, function


def test_calls_in_the_docstring_are_tried_first(programs):
    def parts(text):
        """Splits.

        >>> parts('12:30')
        [12, 30]
        """
        hours, minutes = text.split(":")
        return [int(hours), int(minutes)]

    pair = function_pairs(textwrap.dedent(inspect.getsource(parts)))[0]
    problem = made(problems.Function("os", "parts", 1, pair.input, pair.target))
    assert problem.examples[0] == Case("('12:30',)", "[12, 30]")


def test_mutations_stay_literals_and_move():
    generator = random.Random(0)
    for kinds in call_inputs.combinations(1):
        call = call_inputs.drawn(kinds, generator)
        changed = {repr(call_inputs.mutated(call, generator)) for _ in range(20)}
        assert all(isinstance(ast.literal_eval(text), tuple) for text in changed)
        assert len(changed) > 1 or kinds == ("none",) or kinds == ("flag",)


def test_choice_goes_round_the_clusters():
    groups = selection.clusters(["a", None, "b", "a", "c", "b", "a"])
    assert groups == [[0, 3, 6], [2, 5], [4]]
    found = selection.chosen(groups, 10, np.random.default_rng(0))
    assert sorted(found) == [0, 2, 3, 4, 5, 6] and "".join("a-bacba"[place] for place in found) == "abcaba"
    assert selection.chosen(groups, 2, np.random.default_rng(0)) == found[:2]
    assert selection.chosen([], 3, np.random.default_rng(0)) == []


def test_errors_count_as_behaviour():
    one = [Outcome("value", "1"), Outcome("error", "TypeError: a")]
    assert selection.behaviour(one) == selection.behaviour([one[0], Outcome("error", "TypeError: b")])
    assert selection.behaviour(one) != selection.behaviour([one[0], Outcome("error", "ValueError: a")])
