"""The notation: one grammar for component expressions, block expressions and layer algebra.

A sentence is parsed with `ast` into the four frozen node types below and printed back; nothing is ever evaluated as code.
Column numbers are kept for error messages and do not take part in equality.

    gqa(heads=64, kv_heads=8)      a component with arguments
    rope                           a component without arguments, or one of the model's own scalars
    4*d_model                      arithmetic over numbers and scalars
    5*dense + 9*(retro + 2*dense)  layer algebra, read by `layers()`
"""

import ast
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from taxonomy.errors import UserError, nearest

Number = int | float


class NotationError(UserError):
    """A sentence that cannot be read; the message shows the sentence, the place and what is allowed there."""


@dataclass(frozen=True)
class Literal:
    """A number, string, boolean, None, or a tuple of nodes."""

    value: int | float | str | bool | tuple | None
    column: int = field(default=0, compare=False, repr=False)

    def __eq__(self, other):
        # 1 == 1.0 == True in Python, but they are three different sentences.
        return isinstance(other, Literal) and type(self.value) is type(other.value) and self.value == other.value

    def __hash__(self):
        return hash((type(self.value), self.value))


@dataclass(frozen=True)
class Name:
    """A component without arguments, a block, or a scalar of the model: its place decides."""

    identifier: str
    column: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    """A component with arguments."""

    identifier: str
    positional: tuple["Node", ...] = ()
    keywords: tuple[tuple[str, "Node"], ...] = ()
    column: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class Operation:
    """Arithmetic between two nodes, or (in layer algebra) repetition and sequence."""

    operator: str
    left: "Node"
    right: "Node"
    column: int = field(default=0, compare=False, repr=False)


Node = Literal | Name | Call | Operation

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Pow: "**"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "**": 4}
_MINUS = 3  # a negative number binds looser than ** and tighter than *
_MAX_LENGTH = 10_000
_MAX_DEPTH = 100  # far from the recursion limit, for all that walks a sentence later
_MAX_NUMBER = 1e300
_MAX_LAYERS = 10_000


def parse(text: str, where: str = "expression") -> Node:
    """Reads a sentence. Raises NotationError naming `where`, the sentence and the column of what is wrong."""
    if not isinstance(text, str):
        raise NotationError(f"{where}: expected a string such as 'gelu(d_ff=4*d_model)', got {text!r}")
    if len(text) > _MAX_LENGTH:
        raise NotationError(f"{where}: sentence of {len(text)} characters; at most {_MAX_LENGTH} are allowed")
    try:
        return _convert(ast.parse(_one_line(text), mode="eval").body, text, where)
    except SyntaxError as e:
        raise error(where, text, (e.offset or 1) - 1, f"cannot be read ({e.msg})") from None
    except (ValueError, RecursionError, MemoryError) as e:
        raise error(where, text, 0, f"cannot be read ({e})") from None


def error(where: str, text: str, column: int, message: str) -> NotationError:
    """A NotationError that shows the sentence and the place."""
    return NotationError(f"{where}: {message} at column {column + 1} of: {_one_line(text)}")


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines()).strip()


def _convert(tree: ast.AST, text: str, where: str, depth: int = 0) -> Node:
    column = getattr(tree, "col_offset", 0)
    if depth > _MAX_DEPTH:
        raise error(where, text, column, f"nested more than {_MAX_DEPTH} levels deep")
    inner = functools.partial(_convert, text=text, where=where, depth=depth + 1)
    match tree:
        case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
            if isinstance(value, (int, float)) and not abs(value) <= _MAX_NUMBER:
                raise error(where, text, column, f"numbers must be at most {_MAX_NUMBER:g}")
            return Literal(value, column)
        case ast.Name(id=identifier):
            return Name(identifier, column)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return Literal(tuple(map(inner, items)), column)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value) as operand) if type(value) in (int, float):
            return Literal(-inner(operand).value, column)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Operation("*", Literal(-1, column), inner(operand), column)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return Operation(_OPERATORS[type(op)], inner(left), inner(right), column)
        case ast.Call(func=ast.Name(id=identifier), args=positional, keywords=keywords):
            names = [keyword.arg for keyword in keywords]
            if None in names or any(isinstance(a, ast.Starred) for a in positional):
                raise error(where, text, column, "'*' and '**' arguments are not part of the notation")
            if len(set(names)) < len(names):
                raise error(where, text, column, f"an argument of '{identifier}' is given twice")
            given = tuple((k.arg, inner(k.value)) for k in keywords)
            return Call(identifier, tuple(map(inner, positional)), given, column)
    raise error(where, text, column, f"'{ast.unparse(tree)[:40]}' is not part of the notation")


def show(node: Node) -> str:
    """Prints a node so that `parse(show(node)) == node`."""
    return _show(node, 0)


def _show(node: Node, outer: int) -> str:
    match node:
        case Literal(value=tuple() as items):
            return "(" + ", ".join(_show(i, 0) for i in items) + ("," if len(items) == 1 else "") + ")"
        case Literal(value=value):
            negative = type(value) in (int, float) and math.copysign(1, value) < 0
            return f"({value!r})" if negative and outer >= _MINUS else repr(value)
        case Name(identifier=identifier):
            return identifier
        case Call(identifier=identifier, positional=positional, keywords=keywords):
            arguments = [_show(a, 0) for a in positional] + [f"{k}={_show(v, 0)}" for k, v in keywords]
            return f"{identifier}({', '.join(arguments)})"
        case Operation(operator=operator, left=left, right=right):
            mine = _PRECEDENCE[operator]
            # Equal precedence groups to the left, except ** which groups to the right.
            left_outer, right_outer = (mine + 1, mine) if operator == "**" else (mine, mine + 1)
            gap = " " if mine == 1 else ""
            text = f"{_show(left, left_outer)}{gap}{operator}{gap}{_show(right, right_outer)}"
            return f"({text})" if mine < outer else text
    raise TypeError(f"not a node of the notation: {node!r}")


def names(node: Node) -> set[str]:
    """Every name in a sentence that is not called."""
    match node:
        case Name(identifier=identifier):
            return {identifier}
        case Operation(left=left, right=right):
            return names(left) | names(right)
        case Call(positional=positional, keywords=keywords):
            return set().union(*map(names, (*positional, *(v for _, v in keywords))))
        case Literal(value=tuple() as items):
            return set().union(*map(names, items))
    return set()


def evaluate(node: Node, scalars: Mapping[str, Number], text: str, where: str) -> Number:
    """The number an arithmetic node stands for. Exact for integers: `a/b` stays an integer when b divides a."""
    match node:
        case Literal(value=bool() | str() | None | tuple()):
            raise error(where, text, node.column, f"expected a number, got {show(node)}")
        case Literal(value=value):
            return value
        case Name(identifier=identifier):
            if identifier not in scalars:
                raise error(where, text, node.column, f"unknown scalar '{identifier}'{nearest(identifier, scalars)}")
            return scalars[identifier]
        case Operation(operator=operator, left=left, right=right):
            a, b = evaluate(left, scalars, text, where), evaluate(right, scalars, text, where)
            try:
                result = _apply(operator, a, b)
                if not abs(result) <= _MAX_NUMBER:
                    raise ValueError("number too large")
                return result
            except (ArithmeticError, ValueError) as e:
                raise error(where, text, node.column, f"{show(node)} cannot be computed ({e})") from None
    raise error(where, text, node.column, f"expected a number, got {show(node)}")


def _apply(operator: str, a: Number, b: Number) -> Number:
    if operator == "**":
        if abs(b) > 64 or abs(a) > 1e12:
            raise ValueError("power too large")
        result = a**b
        if isinstance(result, complex):
            raise ValueError("root of a negative number")
        return result
    if operator == "/":
        exact = isinstance(a, int) and isinstance(b, int) and b != 0 and a % b == 0
        return a // b if exact else a / b
    return {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "//" else a // b


@dataclass(frozen=True)
class Repeat:
    """`count` times the sequence `body`; the unit that is scanned."""

    count: int
    body: "Layers"


@dataclass(frozen=True)
class Layers:
    """A sequence of block names and repeats: the parsed layer algebra of one stack."""

    items: tuple[str | Repeat, ...]

    def __len__(self) -> int:
        return sum(1 if isinstance(i, str) else i.count * len(i.body) for i in self.items)

    def __iter__(self) -> Iterator[str]:
        """Block names in order, repeats unrolled."""
        for item in self.items:
            if isinstance(item, str):
                yield item
            else:
                for _ in range(item.count):
                    yield from item.body

    def names(self) -> set[str]:
        """The blocks that occur at least once."""
        return {i for item in self.items for i in ({item} if isinstance(item, str) else item.body.names())}

    def __str__(self) -> str:
        def one(item):
            if isinstance(item, str):
                return item
            match item.body.items:
                case (str() as name,):
                    return f"{item.count}*{name}"
            return f"{item.count}*({item.body})"

        return " + ".join(one(item) for item in self.items)


def layers(text: str, blocks: Mapping[str, object], scalars: Mapping[str, Number], where: str) -> Layers:
    """Reads layer algebra: sums are sequences, `n*x` repeats x. Counts may use the model's scalars."""

    def sequence(node: Node) -> tuple[str | Repeat, ...]:
        match node:
            case Name(identifier=identifier):
                if identifier not in blocks:
                    message = f"unknown block '{identifier}'{nearest(identifier, blocks)}"
                    raise error(where, text, node.column, message)
                return (identifier,)
            case Operation(operator="+", left=left, right=right):
                return sequence(left) + sequence(right)
            case Operation(operator="*", left=left, right=right):
                count = evaluate(left, scalars, text, where)
                if not isinstance(count, int) or count < 1:
                    message = f"a repeat count must be a whole number of at least 1, got {count}"
                    raise error(where, text, node.column, message)
                body = Layers(sequence(right))
                if count * len(body) > _MAX_LAYERS:
                    raise error(where, text, node.column, f"a stack has at most {_MAX_LAYERS} layers")
                return (Repeat(count, body),)
        message = f"expected blocks, '+' and 'count*', got {show(node)}"
        raise error(where, text, node.column, message)

    return Layers(sequence(parse(text, where)))
