"""A calculator that a model calls by writing `<<48/2=`: the value is written for it, and it goes on (Cobbe et al. 2021).

Cobbe et al. 2021, arXiv:2110.14168, appendix C.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence

CALL = re.compile(r"<<([^<>=\n]{1,200})=")
LARGEST = 10**30  # of what is taken and given: no more is needed, and larger powers take for ever
BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(expression: str) -> int | float:
    """The value of sums, products, quotients and powers of numbers. Raises ValueError for everything else."""
    try:
        tree = ast.parse(expression.replace(",", "").strip(), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} has no value: {error}") from None


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        found = node.value
    elif isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        found = UNARY[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > 100:
            raise ValueError(f"a power of {right} is too large")
        found = BINARY[type(node.op)](left, right)
    else:
        raise ValueError(f"{type(node).__name__} is no arithmetic")
    if isinstance(found, complex) or not abs(found) <= LARGEST:
        raise ValueError(f"{found} is no number up to {LARGEST:.0e}")
    return found


def written(value: int | float) -> str:
    """A value as a person would write it: whole numbers without a fraction, others with at most ten digits."""
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def with_calculator(sample: Callable[[Sequence[str]], Sequence[str]], prompts: Sequence[str], calls: int = 8) -> list[str]:
    """What a model says to each prompt, with the calculator's values instead of its own.

    `sample` continues texts, as many at every time as there are prompts, so that no other number of rows has to be compiled; those
    that make up the number are dropped. After a call the text is cut, `value>>` is written and the model goes on, at most `calls`
    times; a call that is no arithmetic stays as the model wrote it.
    """
    said, open_places = [""] * len(prompts), list(range(len(prompts)))
    for _ in range(calls + 1):
        if not open_places:
            break
        surplus = len(prompts) - len(open_places)
        new = sample([prompts[place] + said[place] for place in [*open_places, *open_places[-1:] * surplus]])
        called = []
        for place, text in zip(open_places, new[: len(open_places)], strict=True):
            end, value = _first_call(text)
            said[place] += text if end is None else f"{text[:end]}{value}>>"
            if end is not None:
                called.append(place)
        open_places = called
    return said


def _first_call(text: str) -> tuple[int | None, str]:
    """Where the first call of a text ends, and its value; (None, "") without one."""
    for found in CALL.finditer(text):
        try:
            return found.end(), written(evaluate(found[1]))
        except ValueError:
            continue
    return None, ""
