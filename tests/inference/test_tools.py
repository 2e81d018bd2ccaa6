"""Calls in a text are answered where they stand, and the text goes on from the answers."""

import re

import numpy as np
import pytest

from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import decode, guides, tools
from taxonomy.inference.texts import continuation, text_after
from taxonomy.inference.tools import Calling, Tool

NEW = 24


class Pairs(BytesTokenizer):
    """Bytes, and a token that a model may write, but which no text is encoded with: "=2"."""

    vocab_size = 258

    def _decode(self, ids):
        return b"".join(b"=2" if token == 257 else bytes([token]) for token in ids).decode(errors="replace")


TOKENIZER = Pairs()


@pytest.fixture
def written(tiny, monkeypatch):
    """Texts of which a model has to begin each with some tokens, before it writes what it likes."""
    one = tiny("llama")

    def write(prompts, said=(), **how):
        class Forced(Calling):
            rows = [list(tokens) for tokens in said] or [[] for _ in prompts]

            def allowed(self):
                masks = super().allowed()
                for row, tokens in enumerate(self.rows):
                    if tokens:
                        masks[row] = np.packbits(np.arange(258) == tokens[0], bitorder="little")
                return masks

            def follow(self, tokens):
                self.rows = [row[1:] for row in self.rows]
                return super().follow(tokens)

        monkeypatch.setattr(guides, "Calling", Forced)
        how = {"max_new_tokens": NEW, "tokenizer": TOKENIZER} | how
        if not how.pop("stream", False):
            return decode.generate(one.config, one.params, prompts, **how)
        return ["".join(pieces) for pieces in zip(*decode.stream(one.config, one.params, prompts, **how), strict=True)]

    return write


def test_a_text_goes_on_from_the_answer(written):
    """As from a prompt with the answer in it; without a call, or after one that is no arithmetic, as from what was said."""
    sampler = f"chain(banned({tuple(range(128, 256))}), greedy)"  # whole characters
    said = [b"It is <<48/2=", b"<<1+=", [*b"<<8*3", 257], b"none"]
    begun = ["It is <<48/2=24>>", "<<1+=", "<<8*3=24>>", "none"]
    prompts = ["a", "b", "<<1+1=", "c"]
    found = written(prompts, said, tools=["calculator"], sampler=sampler)
    rest = written([prompt + text for prompt, text in zip(prompts, begun, strict=True)], sampler=sampler)
    expected = [text + more for text, more in zip(begun, rest, strict=True)]
    assert all(text[len(head) :] for text, head in zip(found, begun, strict=True))
    assert all(one.startswith(text) for one, text in zip(expected, found, strict=True))
    assert written(prompts, said, tools=["calculator"], sampler=sampler, stream=True) == found


def test_another_last_token_is_as_if_it_had_been_drawn(tiny):
    """For penalties, too, and for what follows."""
    one, prompts = tiny("llama"), [[5, 6], [7]]

    class Instead:
        said = 0

        def allowed(self):
            return np.full((2, 64), 255, np.uint8)

        def follow(self, tokens):
            self.said += 1
            return {1: 9} if self.said == 3 else {}

    how = {"max_new_tokens": 8, "sampler": "chain(frequency(0.7, prompt=True), greedy)"}
    decoding = decode.Decoding(one.spec, one.params, prompts, **how, guide=Instead())
    decoding.advance()
    first, second = decoding.tokens
    assert second[2] == 9 and first == decode.generate_tokens(one.spec, one.params, prompts, **how)[0]
    assert second[3:] == decode.generate_tokens(one.spec, one.params, [[5], [7, *second[:3]]], **how)[1][:5]
    counted = np.asarray(decoding._state.counts.new_BV)
    assert counted.tolist() == [np.bincount(row, minlength=512).tolist() for row in decoding.tokens]


def test_other_rows_do_not_see_a_call(written):
    """Not even in what is drawn."""
    how = {"tools": ["calculator"], "sampler": "temperature(2.0)", "n": 2, "seed": 3}
    said = [b"<<1+1=", b"<<1+2=", b"x", b"x"]
    found, others = written(["a", "b"], said, **how), written(["a", "b"], [b"y" * 6, b"z" * 6, b"x", b"x"], **how)
    assert [text[:9] for text in found[:2]] == ["<<1+1=2>>", "<<1+2=3>>"] and found[2:] == others[2:] and found[2] != found[3]


def test_calls_are_answered_once_and_not_for_ever(written, monkeypatch):
    echo = Tool(re.compile(r"!(\w*)\?"), lambda word: f"[!{word}?]")
    (text,) = written(["a"], [b"!a?"], tools=[echo])
    assert text.startswith("!a?[!a?]") and text.count("[!a?]") == 1
    (text,) = written(["a"], [b"!a?"], tools=[echo], max_new_tokens=5)
    assert text == "!a?[!"
    monkeypatch.setattr(tools, "CALLS", 0)
    assert not written(["a"], [b"!a?"], tools=[echo])[0].startswith("!a?[")


PROGRAM = Tool(tools.TOOLS["python"].call, lambda source: f"[{len(source)}]", "<python>")


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ("<python>x = 1 <<2==", ""),  # a shift in a program is no sum
        ("<python>x <<y==3</python>", "[8]"),
        ("<<y=<python>1</python>", "[1]"),
        ("<python>x</python>[1]<<1+1=", "2>>"),
        ("<<x=<<1+1=", "2>>"),
    ],
)
def test_tools_leave_each_other_alone(said, answered):
    calling = Calling(["calculator", PROGRAM], TOKENIZER, [[*b"<python>"]])
    tokens = []
    for token in said.encode():
        tokens.append(calling._waiting[0][0] if calling._waiting[0] else token)
        calling.follow([tokens])
    assert bytes(tokens).decode() == said and bytes(calling._waiting[0]).decode() == answered


def test_several_calls_in_a_token():
    """One that is not answered does not hide the next."""

    class Whole(BytesTokenizer):
        vocab_size = 258

        def _decode(self, ids):
            return b"".join(b"<<y=<<1+1=" if token == 257 else bytes([token]) for token in ids).decode()

    calling = Calling(["calculator"], Whole(), [[]])
    assert calling.follow([[257]]) is not None and bytes(calling._waiting[0]) == b"2>>"


def test_an_answer_stands_behind_any_text():
    """A tokenizer that begins every text with a space answers without one."""

    class Spaced(BytesTokenizer):
        def encode_batch(self, texts):
            return super().encode_batch([f" {text}" for text in texts])

    before = [*b"<<48/2="]
    assert continuation(TOKENIZER, before, "24>>") == continuation(Spaced(), before, "24>>") == [*b"24>>"]
    assert text_after(TOKENIZER, before, [*b"24"]) == text_after(TOKENIZER, before, [*b"24"], "<<48/2=") == "24"

    class Beginning(BytesTokenizer):
        def encode_batch(self, texts):
            return [np.array([256, *b"_", *text.encode(), 256]) for text in texts]

    assert continuation(Beginning(), before, "24") == [*b"_24"]


def test_programs(programs):
    python = tools.find("python")
    assert python.answer("print(2**10)") == "<output>1024</output>"
    assert python.answer("1/0") == "<output>error: ZeroDivisionError: division by zero</output>"
    assert python.answer(f"print('x' * {tools.LONGEST + 1})") == "<output>error: more than 1000 characters</output>"
    assert python.call.search("a<python>\nx = 1\n</python>")[1] == "\nx = 1\n"


def test_bad_input(written):
    with pytest.raises(UserError, match=r"tool: unknown tool 'calculater'; did you mean 'calculator'\?"):
        written(["a"], tools=["calculater"])
    with pytest.raises(UserError, match="tools: the sampler rules out token 50, which an answer has"):
        written(["a"], [b"<<1+1="], tools=["calculator"], sampler="banned(50)")
    with pytest.raises(UserError, match="tools: a beam search draws nothing"):
        written(["a"], tools=["calculator"], beams=2)
