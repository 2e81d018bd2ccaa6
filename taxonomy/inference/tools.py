"""Tools that a model calls by what it writes: the answer is written for it, and it goes on.

Cobbe et al. 2021, arXiv:2110.14168, appendix C (a calculator); Schick et al. 2023, arXiv:2302.04761 (calls in the text); Gao et al.
2022, arXiv:2211.10435 (programs).
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import UserError, nearest
from taxonomy.inference import calculator, sandbox
from taxonomy.inference.texts import continuation, text_after

CALLS = 8  # answered in a text at most
LONGEST = 1000  # characters that a program may print


@dataclasses.dataclass(frozen=True)
class Tool:
    """A call is text that matches `call`, up to its closing marker; of its first group, `answer` makes what is written behind it.

    An answer of None leaves the call as the model wrote it, and the model goes on by itself. Behind `opening`, until the call
    ends, what looks like a call of another tool is none.
    """

    call: re.Pattern[str]
    answer: Callable[[str], str | None]
    opening: str | None = None


def _value(expression: str) -> str | None:
    try:
        return f"{calculator.written(calculator.evaluate(expression))}>>"
    except ValueError:
        return None


def _output(source: str) -> str:
    (outcome,) = sandbox.run(sandbox.Program(source), [""], sandbox.Limits(output=LONGEST))
    return f"<output>{outcome.text if outcome.kind == 'value' else f'{outcome.kind}: {outcome.text}'}</output>"


# <<48/2=24>> and <python>print(2**10)</python><output>1024</output>, where the model writes up to `=` and `</python>`.
TOOLS = {
    "calculator": Tool(calculator.CALL, _value),
    "python": Tool(re.compile(r"<python>(.*?)</python>", re.DOTALL), _output, "<python>"),
}


def find(tool: str | Tool) -> Tool:
    """A tool by its name, or itself. Raises UserError for another name, and where programs cannot be run safely."""
    if isinstance(tool, Tool):
        return tool
    if tool not in TOOLS:
        raise UserError(f"tool: unknown tool '{tool}'{nearest(tool, TOOLS)}")
    if tool == "python":
        sandbox.protection()
    return TOOLS[tool]


class Calling:
    """Which tokens of answers are still to be written in each row. A `Guide` of decoding.

    An answer's tokens are drawn one a step, as the only ones allowed, while other rows go on as they would without.
    """

    def __init__(self, tools: Sequence[str | Tool], tokenizer: Tokenizer, before: Sequence[Sequence[int]]):
        self._tools, self._tokenizer, self._before = [find(tool) for tool in tools], tokenizer, before
        self._waiting: list[list[int]] = [[] for _ in before]
        self._read, self._calls = [0] * len(before), [0] * len(before)
        # Characters that each tool need not look at again: up to the end of its last call, or of any tool's last answer.
        self._seen = [[0] * len(self._tools) for _ in before]

    def allowed(self) -> np.ndarray:
        """All tokens in rows without an answer, its next token in others; uint8 (B, ceil(V / 8))."""
        bits_BV = np.ones((len(self._before), self._tokenizer.vocab_size), bool)
        for row, waiting in enumerate(self._waiting):
            if waiting:
                bits_BV[row] = False
                bits_BV[row, waiting[0]] = True
        return np.packbits(bits_BV, axis=1, bitorder="little")

    def follow(self, tokens: Sequence[Sequence[int]]) -> dict[int, int]:
        """Looks for calls that the last tokens complete.

        A token may go on behind the closing marker; the part before its end, and the answer, then take its place.
        """
        instead = {}
        for row, new in enumerate(tokens):
            if len(new) == self._read[row]:
                continue
            self._read[row] = len(new)
            if self._waiting[row]:
                if new[-1] != (wanted := self._waiting[row].pop(0)):
                    raise UserError(f"tools: the sampler rules out token {wanted}, which an answer has")
            elif self._calls[row] < CALLS and (replaced := self._called(row, new)) is not None:
                instead[row] = replaced
        return instead

    def _called(self, row: int, new: Sequence[int]) -> int | None:
        """Answers the first call, if there is one. What the last token is to be instead, if another."""
        text = text_after(self._tokenizer, self._before[row], new)
        answer, seen = None, self._seen[row]
        while answer is None:
            searched = ((number, tool.call.search(text, seen[number])) for number, tool in enumerate(self._tools))
            found = [(match.end(), number, match) for number, match in searched if match]
            if not found:
                return None
            end, number, match = min(found, key=lambda one: one[0])
            if not self._inside(row, number, text[: match.start()]):
                answer = self._tools[number].answer(match[1])
            seen[number] = end
        self._calls[row] += 1
        seen[:] = [end + len(answer)] * len(seen)
        if end == len(text):
            self._waiting[row] = continuation(self._tokenizer, [*self._before[row], *new], answer)
            return None
        kept = new[:-1]
        rest = text[len(text_after(self._tokenizer, self._before[row], kept)) : end]
        first, *self._waiting[row] = continuation(self._tokenizer, [*self._before[row], *kept], rest + answer)
        return first

    def _inside(self, row: int, number: int, before: str) -> bool:
        """Whether a call of another tool is open behind this text."""
        others = (pair for i, pair in enumerate(zip(self._tools, self._seen[row], strict=True)) if i != number)
        return any(tool.opening is not None and before.find(tool.opening, seen) >= 0 for tool, seen in others)
