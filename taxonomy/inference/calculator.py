"""A calculator that a model calls by writing `<<48/2=` (Cobbe et al. 2021, arXiv:2110.14168, appendix C), see `tools`."""

import ast
import operator
import re

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
