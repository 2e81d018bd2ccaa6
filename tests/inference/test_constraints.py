"""Texts that match a regular expression or a schema, whatever the model would rather say."""

import io
import json
import re

import jax
import numpy as np
import pytest
import sentencepiece
import tokenizers
from scipy import stats
from tokenizers import decoders, models, pre_tokenizers, trainers

from taxonomy import registry
from taxonomy.data.library_tokenizer import LibraryTokenizer
from taxonomy.data.tokenizers import BytesTokenizer, SentencePieceTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import decode, steps
from taxonomy.inference.constraints import Constraint, Following, vocabulary

DOCUMENTS = ["maybe yes, maybe no: the cat-100 and the cab-27 are abcabc,\n\tand naïve"] * 40
WARM = "temperature(3.0)"
LATIN = bytes(range(256)).decode("latin-1")


def library(decoder):
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoder
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>", "<pad>"], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(DOCUMENTS, trainer)
    return LibraryTokenizer(bpe.to_str().encode(), document_start=0)


def published():
    """A SentencePiece model as many are: every text has a space before it, of which decoding makes none."""
    model = io.BytesIO()
    options = {"vocab_size": 320, "byte_fallback": True, "remove_extra_whitespaces": False, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(DOCUMENTS), model_writer=model, minloglevel=2, **options)
    return SentencePieceTokenizer(model.getvalue(), lossless=False)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece", "published", "library"])
def tokenizer(request):
    if request.param == "library":
        return library(decoders.ByteLevel())
    if request.param == "published":
        return published()
    sentence = {"bytes": "bytes", "sentencepiece": "sentencepiece(vocab=290)"}[request.param]
    return registry.create("tokenizer", sentence, "data.tokenizer").train(DOCUMENTS)


@pytest.fixture
def written(tiny):
    """Texts of a random model under a constraint: four for each of two prompts."""
    one = tiny("llama")

    def write(constraint, tokenizer, prompts=("", "naïve ca"), **how):
        how = {"max_new_tokens": 64, "sampler": WARM, "n": 4} | how
        return decode.generate(one.config, one.params, prompts, tokenizer=tokenizer, constraint=constraint, **how)

    return write


PATTERNS = ["yes|no|maybe", r"[a-c]{2,5}(-[0-9]{1,3})?", "(é|汉| ){1,3}\n?", r"([^x]|xx){3,4}y?", "(?i)ab{0,2}c?"]


def test_every_text_matches(tokenizer, written):
    for number, pattern in enumerate(PATTERNS):
        texts = written(Constraint.regex(pattern), tokenizer, seed=number)
        assert len(texts) == 8 and len(set(texts)) > 1
        assert all(re.fullmatch(pattern, text) for text in texts), (pattern, texts)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["cat", "cab"]}, "minItems": 1, "maxItems": 3},
        "inner": {"type": "object", "properties": {"ok": {"type": "boolean"}, "none": {"type": "null"}}, "required": ["ok"]},
    },
    "required": ["name", "age", "inner"],
    "additionalProperties": False,
}
SCHEMA["properties"]["inner"]["additionalProperties"] = False


def fulfils(value, schema):
    """Of the keywords above."""
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "object":
        known = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(known) and all(fulfils(value[key], known[key]) for key in value)
    if schema["type"] == "array":
        return schema["minItems"] <= len(value) <= schema["maxItems"] and all(fulfils(one, schema["items"]) for one in value)
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    if schema["type"] == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    return type(value) is bool if schema["type"] == "boolean" else value is None


def test_every_text_fulfils_a_schema(tokenizer, written):
    texts = written(Constraint.json_schema(SCHEMA), tokenizer, max_new_tokens=160)
    assert all(fulfils(json.loads(text), SCHEMA) for text in texts) and len(set(texts)) > 1
    assert not fulfils({"name": "a", "age": 1, "inner": {"ok": 1}}, SCHEMA)


def test_every_token_is_what_it_adds_to_a_text(tokenizer):
    """The bytes that the automaton reads are those that the text becomes."""
    automaton = vocabulary(tokenizer)
    for text in [*DOCUMENTS[:1], LATIN, "汉字 😀\n"]:
        tokens = tokenizer.encode(text).tolist()
        assert automaton.decode_bytes(tokens).removeprefix(b" ") == tokenizer.decode(tokens).encode()
    free = Following(Constraint.regex("(?s).*"), tokenizer, [tokenizer.encode("a")]).allowed()[0]
    free = np.unpackbits(free, bitorder="little")
    alone = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    # What stands for no text, or for an unknown one, or is no beginning of a character.
    assert all(text in ("", " ", " \u2047 ") or "\ufffd" in text for text, may in zip(alone, free, strict=False) if not may)
    assert not any(may for text, may in zip(alone, free, strict=False) if text == " \u2047 ")
    assert free[tokenizer.document_end]


def test_the_most_likely_of_what_is_allowed(tiny, written):
    """Greedily, against the full forward pass and the words themselves."""
    one, words = tiny("llama"), ["yes", "no", "maybe", "may", "nobody"]
    found = written(Constraint.regex("|".join(words)), BytesTokenizer(), sampler="greedy", n=1)
    for prompt, text in zip(["", "naïve ca"], found, strict=True):
        said = b""
        while True:
            row = np.zeros((1, 32), np.int32)
            before = [256, *prompt.encode(), *said]
            row[0, : len(before)] = before
            logits = np.asarray(one.logits(one.params, row))[0, len(before) - 1]
            going = [word.encode() for word in words if word.encode().startswith(said)]
            allowed = {256 if word == said else word[len(said)] for word in going}
            token = max(allowed, key=lambda token: logits[token])
            if token == 256:
                break
            said += bytes([token])
        assert said.decode() == text


def test_what_is_allowed_is_as_likely_as_before(tiny):
    """Its probabilities are those of the model and the sampler, renormalised; a truncation sees nothing else."""
    one, prompt, letters = tiny("llama"), [256, 5, 6, 7], np.array([97, 98, 99])
    rows = 3000
    draw = {"max_new_tokens": 1, "n": rows, "vocab_size": 257, "stop_token": 256}

    def drawn(sampler):
        guide = Following(Constraint.regex("[abc]{1,2}"), BytesTokenizer(), [[1]] * rows)
        return np.ravel(decode.generate_tokens(one.spec, one.params, [prompt], **draw, sampler=sampler, guide=guide))

    logits = np.asarray(one.logits(one.params, np.array([prompt])))[0, -1, letters]
    shares = np.asarray(jax.nn.softmax(logits / 1.5), np.float64)
    counts = (drawn("temperature(1.5)")[:, None] == letters).sum(0)
    assert counts.sum() == rows and stats.chisquare(counts, rows * shares / shares.sum()).pvalue > 1e-4
    best = set(letters[np.argsort(-logits)[:2]].tolist())
    assert set(drawn("top_k(2)").tolist()) == best


def test_rows_are_at_states_of_their_own():
    following = Following(Constraint.regex("ab?|cd{2}"), BytesTokenizer(), [[1]] * 3)

    def allowed():
        return [set(np.flatnonzero(np.unpackbits(row, bitorder="little")).tolist()) for row in following.allowed()]

    assert allowed() == [{97, 99}] * 3
    following.follow([[97], [99], [97]])
    assert allowed() == [{98, 256}, {100}, {98, 256}]
    following.follow([[97, 98], [99, 100], [97]])  # the last one has ended
    assert allowed()[:2] == [{256}, {100}]


def test_with_everything_else(tiny, written):
    """As it comes, before a stop string, guided, penalised, cut off, and without another compilation."""
    one, tokenizer, constraint = tiny("llama"), BytesTokenizer(), Constraint.regex("[ab]{12}-[0-9]{2}")
    how = {"unconditional": ["x", "y"], "guidance": 2.0, "sampler": "chain(repetition(1.3), top_p(0.9, temperature=3.0))"}
    texts = written(constraint, tokenizer, **how)
    assert all(re.fullmatch("[ab]{12}-[0-9]{2}", text) for text in texts)
    before = steps.extend._cache_size()
    options = {"tokenizer": tokenizer, "constraint": constraint, "max_new_tokens": 64, "n": 4, **how}
    pieces = [*decode.stream(one.config, one.params, ["", "naïve ca"], **options)]
    assert ["".join(parts) for parts in zip(*pieces, strict=True)] == texts and len(pieces) == 16
    assert written(constraint, tokenizer, **how, stop=["-"]) == [text[:12] for text in texts]
    assert steps.extend._cache_size() == before
    assert written(constraint, tokenizer, **how, max_new_tokens=9) == [text[:9] for text in texts]


@pytest.mark.parametrize(
    ("make", "given", "complaint"),
    [
        ("regex", "a(", r"regex: 'a\(': unclosed group"),
        ("regex", "(?=a)b", "regex: .*look-around, .* is not supported"),
        ("json_schema", "{", "json_schema: is no JSON: Expecting property name"),
        ("json_schema", "[1]", r"json_schema: must be an object, true or false, got \[1\]"),
        ("json_schema", {"type": "objekt"}, "json_schema: .*: Invalid type: objekt"),
        ("json_schema", {"type": "array", "uniqueItems": True}, "json_schema: .*: Unimplemented keys: .*uniqueItems"),
        ("json_schema", {"minimum": 3, "maximum": 1, "type": "integer"}, "json_schema: .*: Unsatisfiable schema"),
    ],
)
def test_what_cannot_be_read_is_told(make, given, complaint):
    with pytest.raises(UserError, match=f"^{complaint}") as error:
        getattr(Constraint, make)(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "how", "complaint"),
    [
        ("[a&&b]", {}, "constraint: no token of the tokenizer leads to a text that matches"),
        ("a", {"sampler": "banned(97)"}, "constraint: the sampler left none of the tokens that are allowed behind 0 tokens"),
        ("a", {"to_document_end": False}, "constraint: only where a text ends with its document"),
        ("a", {"tools": ["calculator"]}, "tools: not with a constraint"),
        ("a", {"beams": 2, "n": 1, "sampler": None}, "sampler: a beam search draws nothing"),
    ],
)
def test_what_cannot_be_written_is_refused(pattern, how, complaint, written):
    with pytest.raises(UserError, match=f"^{complaint}"):
        written(Constraint.regex(pattern), BytesTokenizer(), **how)


def test_what_no_token_says_is_refused(written):
    class Ascii(BytesTokenizer):
        def pieces(self):
            return [piece if token < 128 else None for token, piece in enumerate(super().pieces())]

    with pytest.raises(UserError, match="constraint: no token of the tokenizer leads"):
        written(Constraint.regex("aé"), Ascii())


def test_tokens_that_are_no_bytes_are_refused(written):
    with pytest.raises(UserError, match="constraint: not with this tokenizer, whose tokens are no bytes"):
        written(Constraint.regex("a"), library(decoders.WordPiece()))
