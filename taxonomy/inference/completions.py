"""What OpenAI's completions endpoint is asked and answers, as JSON (platform.openai.com/docs/api-reference/completions).

Beside its parameters there are `top_k` and `min_p`, as other servers have them.
"""

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any

from taxonomy.errors import UserError, nearest
from taxonomy.inference.decode import Tokenizer
from taxonomy.inference.slots import Row, Slots

_IGNORED = ("user",)
_DEFAULT_TOKENS = 16
_MOST_STOPS = 16


class Refused(Exception):
    """An answer that is an error: its status, and what OpenAI's errors say."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, printable(message), param and printable(param), code

    def json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request: rows to be continued, `n` for each prompt side by side, and how to answer."""

    rows: tuple[Row, ...]
    prompts: tuple[str, ...]  # of each row, as text
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    echo: bool
    prompt_tokens: int


@dataclasses.dataclass(frozen=True)
class Model:
    """What requests are asked of."""

    name: str
    slots: Slots
    tokenizer: Tokenizer
    most_texts: int

    def asked(self, body: bytes) -> Asked:
        """A request, checked. Raises Refused."""
        fields = _Fields(_object(body))
        if (name := fields.text("model", required=True)) != self.name:
            message = f"model: '{name[:80]}' does not exist{nearest(name[:80], [self.name])}"
            raise Refused(404, message, "model", "model_not_found")
        fields.unsupported("suffix", None, "")
        fields.unsupported("logprobs", None, 0)
        n = fields.whole("n", 1, 1, self.most_texts)
        fields.unsupported("best_of", None, n)
        options = fields.take("stream_options", None)
        if options is not None and not isinstance(options, dict):
            raise _wrong("stream_options", "an object", options)
        inner = _Fields(options or {}, "stream_options.")
        stream, include_usage = fields.flag("stream"), inner.flag("include_usage")
        inner.flag("include_obfuscation")
        inner.done()
        if options is not None and not stream:
            raise Refused(400, "stream_options: only with stream=true", "stream_options")
        drawing = {
            "temperature": fields.number("temperature", 1.0, 0.0, 2.0),
            "top_p": fields.number("top_p", 1.0, 0.0, 1.0, above=True),
            "min_p": fields.number("min_p", 0.0, 0.0, 1.0),
            "frequency": fields.number("frequency_penalty", 0.0, -2.0, 2.0),
            "presence": fields.number("presence_penalty", 0.0, -2.0, 2.0),
            "bias": self._bias(fields.take("logit_bias", None)),
        }
        if (top_k := fields.whole("top_k", None, 1, None)) is not None:
            drawing["top_k"] = top_k
        seed = fields.whole("seed", None, -(2**63), 2**63 - 1)
        tokens = fields.whole("max_tokens", None, 1, None)
        stop, echo, prompt = _stops(fields.take("stop", None)), fields.flag("echo"), fields.take("prompt", "")
        for name in _IGNORED:
            fields.take(name, None)
        fields.done()
        seed, rows, texts = secrets.randbits(31) if seed is None else seed, [], []
        prompts = self._prompts(prompt)
        if len(prompts) * n > self.most_texts:
            raise Refused(400, f"n: {len(prompts)} prompts times {n} are more than the {self.most_texts} texts allowed", "n")
        for one in prompts:
            row = self._row(one, tokens, drawing)
            rows += [dataclasses.replace(row, seed=seed, copy=len(rows) + i) for i in range(n)]
            texts += [one if isinstance(one, str) else self.tokenizer.decode(one)] * n
        read = sum(len(row.tokens if row.inputs is None else row.inputs) for row in rows[::n])
        return Asked(tuple(rows), tuple(texts), stop, stream, include_usage, echo, read)

    def warm(self) -> None:
        """Compiles what writes, and what reads the shortest prompts: each longer length is compiled when it first comes."""
        self.slots.place(self._row("", 1, {}))
        self.slots.read()
        self.slots.advance()

    def _row(self, prompt: str | list[int], tokens: int | None, drawing: Mapping[str, Any]) -> Row:
        start, end = self.tokenizer.document_start, self.tokenizer.document_end
        if isinstance(prompt, str):
            prompt = [int(token) for token in self.tokenizer.encode(prompt)]
        if self.slots.beside_encoder:
            inputs = prompt if prompt[-1:] == [end] else [*prompt, end]
            read, inputs = (start,), tuple(inputs)
        else:
            read, inputs = tuple(prompt if prompt[:1] == [start] else [start, *prompt]), None
        room = self.slots.max_length + 1 - len(read)
        wanted = min(_DEFAULT_TOKENS, max(1, room)) if tokens is None else tokens
        if len(inputs or ()) > self.slots.max_inputs:
            message = f"prompt: its {len(inputs)} tokens are more than the {self.slots.max_inputs} that this model's encoder reads"
            raise Refused(400, message, "prompt", "context_length_exceeded")
        if wanted > room:
            own = f"max_tokens={wanted}" if inputs else f"prompt: its {len(read)} tokens and max_tokens={wanted}"
            message = f"{own} are more than this model's context of {self.slots.max_length} tokens"
            raise Refused(400, message, "prompt" if room < 1 else "max_tokens", "context_length_exceeded")
        row = Row(read, wanted, inputs, (end,), drawing=drawing)
        try:
            self.slots.check(row)
        except UserError as error:
            raise Refused(400, str(error), "prompt") from None
        return row

    def _prompts(self, prompt: Any) -> list[str | list[int]]:
        """Texts and rows of tokens."""
        if isinstance(prompt, str) or _tokens(prompt):
            prompts = [prompt]
        elif isinstance(prompt, list) and prompt and all(isinstance(one, str) or _tokens(one) for one in prompt):
            prompts = prompt
        else:
            raise _wrong("prompt", "a text, a list of texts, a list of tokens or a list of such lists", prompt)
        vocab = self.tokenizer.vocab_size
        for one in prompts:
            if isinstance(one, str):
                _check_text("prompt", one)
            elif not 0 <= min(one) <= max(one) < vocab:
                raise Refused(400, f"prompt: tokens {min(one)} to {max(one)} are not all below the vocabulary of {vocab}", "prompt")
        return prompts

    def _bias(self, given: Any) -> dict[int, float]:
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise _wrong("logit_bias", "an object of numbers by token", given)
        fields, vocab = _Fields(given, "logit_bias."), self.tokenizer.vocab_size
        for token in given:
            if not (token.isascii() and token.isdigit() and len(token) < 12 and int(token) < vocab):
                raise Refused(400, f"logit_bias: {_shown(token)} is not a token, from 0 to {vocab - 1}", "logit_bias")
        return {int(token): fields.number(token, 0.0, -100.0, 100.0) for token in given}


class _Fields:
    """The fields of an object, each taken once; what is wrong with one is said by its name. null is as if it were not there."""

    def __init__(self, given: Mapping[str, Any], where: str = ""):
        self._given, self._where, self._known = given, where, []

    def take(self, name: str, default: Any) -> Any:
        self._known.append(name)
        value = self._given.get(name)
        return default if value is None else value

    def text(self, name: str, required: bool = False) -> str | None:
        value = self.take(name, None)
        if value is None and required:
            raise Refused(400, f"{self._where}{name}: required", name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a text", value)
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def number(self, name: str, default: float, low: float, high: float, above: bool = False) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or (above and value == low):
            allowed = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
            raise self._wrong(name, f"a number {allowed}", value)
        return float(value)

    def whole(self, name: str, default: int | None, low: int, high: int | None) -> int | None:
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise self._wrong(name, f"a whole number {allowed}", value)
        return value

    def unsupported(self, name: str, *harmless: Any) -> None:
        value = self.take(name, None)
        if value not in harmless or isinstance(value, bool):
            raise Refused(400, f"{self._where}{name}: not supported by this server", name, "unsupported_parameter")

    def done(self) -> None:
        """Refuses fields that were not taken."""
        for name in self._given:
            if name not in self._known:
                message = f"{self._where}{name[:80]}: unknown parameter{nearest(name[:80], self._known)}"
                raise Refused(400, message, name, "unknown_parameter")

    def _wrong(self, name: str, allowed: str, value: Any) -> Refused:
        return _wrong(self._where + name, allowed, value)


def printable(text: str) -> str:
    """A text on one line, whatever a client put into it; the rest of a very long one is left out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:1000])


def _object(body: bytes) -> dict[str, Any]:
    def refuse(name: str):
        raise ValueError(f"{name} is not JSON")

    try:
        found = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"body: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise Refused(400, f"body: expected a JSON object, got {_shown(found)}")
    return found


def _wrong(name: str, allowed: str, value: Any) -> Refused:
    return Refused(400, f"{name}: expected {allowed}, got {_shown(value)}", name, "invalid_value")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:76] + " ..."


def _tokens(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(t, int) and not isinstance(t, bool) for t in prompt)


def _stops(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops) or len(stops) > _MOST_STOPS:
        raise _wrong("stop", f"a text, or at most {_MOST_STOPS} of them, none empty", given)
    for stop in stops:
        _check_text("stop", stop)
    return tuple(stops)


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"{name}: has half of a surrogate pair, which is no character", name) from None


def answer(made: Mapping[str, Any], texts: list[str], ended: list[str], usage: Mapping[str, int]) -> dict[str, Any]:
    """The answer as one; `made` says what all parts of an answer say."""
    choices = [_choice(i, text, reason) for i, (text, reason) in enumerate(zip(texts, ended, strict=True))]
    return {**made, "choices": choices, "usage": usage}


def part(made: Mapping[str, Any], index: int, text: str, ended: str | None, asked: Asked) -> dict[str, Any]:
    """A part of a streamed answer."""
    return {**made, "choices": [_choice(index, text, ended)], **({"usage": None} if asked.include_usage else {})}


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    """Of all texts together, each prompt counted once."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": new_tokens, "total_tokens": prompt_tokens + new_tokens}


def _choice(index: int, text: str, ended: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": ended}
