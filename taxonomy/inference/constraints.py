"""Texts that must match a regular expression or a JSON schema: the automaton of llguidance says which tokens may come next.

Willard & Louf 2023, arXiv:2307.09702; Geng et al. 2025, arXiv:2501.10868 (schemas).
"""

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taxonomy.data.library_tokenizer import LibraryTokenizer
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import UserError

# One space or none behind commas and colons, and no other white space, of which a model might never stop writing more.
SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


@dataclasses.dataclass(frozen=True)
class Constraint:
    """What every text must match, whole. Made by `regex` and `json_schema`.

    spaced: the same behind a space, for tokenizers that take the first space for the place where a text begins.
    """

    grammar: str
    spaced: str

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        """A regular expression as Rust's regex crate reads it: without look-around, back references and word boundaries.

        Raises UserError for a pattern that it cannot read.
        """
        grammar = _llguidance().LLMatcher.grammar_from_regex
        return cls(_checked("regex", pattern, grammar(pattern)), grammar(f" (?:{pattern})"))

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any] | bool) -> "Constraint":
        """JSON that a schema validates, with at most one space behind commas and colons; objects have the schema's order.

        Raises UserError for text that is no JSON, and for a schema that is impossible or has keys that are not enforced.
        """
        try:
            schema = json.loads(schema) if isinstance(schema, str) else schema
            text = json.dumps(schema)
        except (TypeError, ValueError) as error:
            raise UserError(f"json_schema: is no JSON: {error}") from None
        if not isinstance(schema, Mapping | bool):
            raise UserError(f"json_schema: must be an object, true or false, got {text[:80]}")
        matcher = _llguidance().LLMatcher
        grammar = _checked("json_schema", text, matcher.grammar_from_json_schema(text, SPACING))
        inside = json.dumps({"x-guidance": SPACING} | ({} if schema is True else dict(schema)))
        return cls(grammar, matcher.grammar_from_lark(f'start: " " body\nbody: %json {inside}'))


class Following:
    """How far each of some rows is in its constraint. A `Guide` of decoding.

    Where a text can go on in one way alone, the tokens allowed are those that this would be encoded as.
    """

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, before: Sequence[Sequence[int]]):
        """The rows follow the texts of some tokens.

        Raises UserError for a tokenizer that cannot write such a text, or whose tokens are no bytes.
        """
        words = vocabulary(tokenizer)
        spaced = _drops_space(tokenizer, words)
        grammars = [constraint.spaced if spaced and not tokenizer.decode(row) else constraint.grammar for row in before]
        first = {grammar: _llguidance().LLMatcher(words, grammar, log_level=0) for grammar in grammars}
        self._matchers = [first[grammar].deep_copy() for grammar in grammars]
        self._read = [0] * len(before)
        self._masks_BW = np.zeros((len(before), -(-tokenizer.vocab_size // 8)), np.uint8)
        for row in range(len(before)):
            self._look(row)

    def allowed(self) -> np.ndarray:
        """The tokens that may come next in each row, bits from the lowest on, uint8 (B, ceil(V / 8))."""
        return self._masks_BW.copy()

    def follow(self, tokens: Sequence[Sequence[int]]) -> dict[int, int]:
        """Reads what was added to each row. Raises UserError for a token that was not allowed."""
        for row, new in enumerate(tokens):
            if len(new) == self._read[row]:
                continue
            if not self._matchers[row].consume_tokens(list(new[self._read[row] :])):
                # Nothing was left to draw: a sampler rules out tokens for its own reasons, and the first one is drawn then.
                raise UserError(f"constraint: the sampler left none of the tokens that are allowed behind {len(new) - 1} tokens")
            self._read[row] = len(new)
            self._look(row)
        return {}

    def _look(self, row: int) -> None:
        """Looks up what may come next in a row."""
        matcher = self._matchers[row]
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)[: self._masks_BW.shape[1]]
        if matcher.is_error() or not (mask.any() and (matcher.is_accepting() or not matcher.is_stopped())):
            stuck = "no token of the tokenizer leads to a text that matches"
            reason = _told(matcher.get_error())
            raise UserError(f"constraint: {stuck if reason in ('', 'NoExtensionBias') else reason}")
        self._masks_BW[row] = mask


@functools.lru_cache(maxsize=4)
def vocabulary(tokenizer: Tokenizer) -> Any:
    """A tokenizer as llguidance wants it. Raises UserError for one whose tokens are no bytes."""
    library, end = _llguidance(), tokenizer.document_end
    if not isinstance(tokenizer, LibraryTokenizer):
        return library.LLTokenizer(library.TokenizerWrapper(_Pieces(tokenizer)), eos_token=end)
    try:
        return library.LLTokenizer(tokenizer.definition(), eos_token=end)
    except ValueError as error:
        raise UserError(f"constraint: not with this tokenizer, whose tokens are no bytes: {_told(str(error))}") from None


class _Pieces:
    """What llguidance asks of a tokenizer; tokens that stand for no text are special."""

    def __init__(self, tokenizer: Tokenizer):
        pieces = tokenizer.pieces()
        self.tokens = [b"<special>" if piece is None else piece for piece in pieces]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if piece is None]
        self.eos_token_id, self.bos_token_id = tokenizer.document_end, None
        self._tokenizer = tokenizer
        self._known = {piece: token for token, piece in enumerate(pieces) if piece}
        self._most = max(map(len, self._known))

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens whose bytes are the text's: some tokenizers put a space before it, or know a token of which it has no bytes."""
        data = text if isinstance(text, bytes) else text.encode()
        found = self._tokenizer.encode(data.decode(errors="replace")).tolist()
        return found if b"".join(self.tokens[token] for token in found) == data else self._longest(data)

    def _longest(self, data: bytes) -> list[int]:
        """Of all tokens that may come next always the longest."""
        found, place = [], 0
        while place < len(data):
            ends = range(min(len(data), place + self._most), place, -1)
            end = next((end for end in ends if data[place:end] in self._known), None)
            if end is not None:
                found.append(self._known[data[place:end]])
            place = place + 1 if end is None else end
        return found


def _drops_space(tokenizer: Tokenizer, words: Any) -> bool:
    """Whether a text loses the space that its first token begins with."""
    rows = [tokenizer.encode(text).tolist() for text in ("a", " a")]
    return any(words.decode_bytes(row) == b" " + tokenizer.decode(row).encode() for row in rows)


def _checked(name: str, given: str, grammar: str) -> str:
    complaint = _told(_llguidance().LLMatcher.validate_grammar(grammar))
    if complaint:
        raise UserError(f"{name}: {given[:200]!r}: {complaint}")
    return grammar


def _told(complaint: str) -> str:
    """What is wrong, in a line."""
    lines = [line.strip() for line in complaint.splitlines()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[0]


def _llguidance() -> Any:
    if importlib.util.find_spec("llguidance") is None:
        raise UserError("constraint: needs the library llguidance, which is not installed: pip install -e '.[constrained]'")
    import llguidance

    return llguidance
