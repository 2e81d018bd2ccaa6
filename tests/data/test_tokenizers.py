import json
import random
import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taxonomy.data import tokenizers
from taxonomy.data.tokenizers import Bytes, SentencePiece, SentencePieceFile, load_tokenizer, sample_blocks
from taxonomy.errors import UserError
from taxonomy.registry import create

KINDS = ("bytes", "bpe", "unigram")
# Text without lone surrogates, which no UTF-8 file can hold; code-like characters come up often.
TEXTS = st.text(st.one_of(st.sampled_from(" \t\n\r\u2581abcdef()_019"), st.characters(codec="utf-8")))


@pytest.fixture(scope="session")
def trained(documents):
    return {
        "bytes": Bytes().train(documents),
        "bpe": SentencePiece(vocab=600).train(documents),
        "unigram": SentencePiece(vocab=400, kind="unigram").train(documents),
    }


@pytest.fixture(params=KINDS)
def tokenizer(request, trained):
    return trained[request.param]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=TEXTS)
@example(text="")
@example(text="  two  spaces  \t\ttabs \n\n\n\r\n        indented\n")
@example(text="汉字 かな 한국어 😀 e\u0301 \ufeff \uffff \U0010ffff")
@example(text="\x00\x01\x7f\x85\u2028\u200b\u2581\u2585\u2047\ufffd")
@example(text="<s></s><unk> ⁇ <0x0A>\u2581\n\u2581 \u2581")
@example(text="\uff11\uff12 \ufb01 \u212b \xbd \u2460")
def test_every_text_survives(trained, kind, text):
    tokenizer = trained[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.decode(ids) == text
    if len(ids):
        assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size
        assert tokenizer.document_start not in ids


def test_a_batch_is_its_texts(tokenizer, documents):
    texts = [*documents[:30], "", "\n", "\u2581", "x" * 100_000, "".join(documents) * 3]
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([]) == []


def test_lines_are_encoded_apart(tokenizer):
    """What a line becomes does not depend on what stands around it."""
    lines = ["    return value", "", "\tprint(1)", "for index in range(3):"]
    separate = [tokenizer.encode(part) for line in lines for part in (line, "\n")]
    np.testing.assert_array_equal(tokenizer.encode("".join(line + "\n" for line in lines)), np.concatenate(separate))


def test_document_start_stands_for_no_text(tokenizer):
    ids = tokenizer.encode("text")
    start = tokenizer.document_start
    assert 0 <= start < tokenizer.vocab_size
    assert tokenizer.decode([start, *ids, start, *ids, start]) == "texttext"


def test_ids_outside_the_vocabulary_are_an_error(tokenizer):
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"id {token} is outside the vocabulary of {tokenizer.vocab_size}"):
            tokenizer.decode([5, token])


def test_every_id_can_be_decoded(tokenizer):
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)
    assert isinstance(tokenizer.decode(np.arange(tokenizer.vocab_size)[::-1]), str)


def test_incomplete_characters_become_the_replacement_character(trained):
    ids = trained["bytes"].encode("é")
    assert trained["bytes"].decode(ids[:1]) == "\ufffd"


def test_bytes_are_bytes(trained):
    assert trained["bytes"].encode("aé").tolist() == list("aé".encode())
    assert (trained["bytes"].vocab_size, trained["bytes"].document_start) == (257, 256)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path, documents):
    tokenizer.save(tmp_path / "a" / "b")
    loaded = load_tokenizer(tmp_path / "a" / "b")
    assert (loaded.vocab_size, loaded.document_start, loaded.fingerprint) == (
        tokenizer.vocab_size,
        tokenizer.document_start,
        tokenizer.fingerprint,
    )
    text = "".join(documents) + "\u2581"
    np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} <= {"tokenizer.json", "tokenizer.model"}
    assert json.loads((tmp_path / "a" / "b" / "tokenizer.json").read_text())["vocab_size"] == tokenizer.vocab_size


class TestDamage:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match=r"tokenizer: .*tokenizer\.json: No such file"):
            load_tokenizer(tmp_path)

    def test_no_model(self, trained, tmp_path):
        trained["bpe"].save(tmp_path)
        (tmp_path / "tokenizer.model").unlink()
        with pytest.raises(UserError, match=r"tokenizer\.model: No such file"):
            load_tokenizer(tmp_path)

    def test_another_model(self, trained, tmp_path):
        trained["bpe"].save(tmp_path)
        model = bytearray((tmp_path / "tokenizer.model").read_bytes())
        model[500] ^= 1
        (tmp_path / "tokenizer.model").write_bytes(model)
        with pytest.raises(UserError, match=r"tokenizer\.model is damaged: its hash is not the one in tokenizer\.json"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize("text", ["{", "{}", "[]", '{"kind": "sentencepiece"}', '{"kind": "words"}'])
    def test_a_bad_description(self, trained, tmp_path, text):
        trained["bpe"].save(tmp_path)
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match=r"tokenizer: .*tokenizer\.json(: unknown kind 'words'| is damaged)"):
            load_tokenizer(tmp_path)


class TestLearning:
    def test_the_vocabulary_has_the_size_asked_for(self, trained):
        assert trained["bpe"].vocab_size == 600
        assert trained["unigram"].vocab_size == 400

    @pytest.mark.parametrize("kind", ["bpe", "unigram"])
    def test_it_is_deterministic_and_blind_to_the_order_of_documents(self, documents, kind):
        shuffled = random.Random(0).sample(documents, len(documents))
        one, two, three = (
            SentencePiece(vocab=350, kind=kind).train(texts).fingerprint for texts in (documents, documents, shuffled)
        )
        assert one == two == three

    @pytest.mark.parametrize("kind", ["bpe", "unigram"])
    def test_indentation_gets_pieces(self, trained, kind):
        for width in (4, 8, 12):
            indented, plain = (trained[kind].encode(start + "return text") for start in (" " * width, ""))
            assert len(indented) <= len(plain) + 2

    def test_it_shortens_text(self, trained, documents):
        text = "".join(documents)
        assert len(trained["bpe"].encode(text)) < 0.5 * len(text.encode())

    @pytest.mark.parametrize("kind", ["bpe", "unigram"])
    def test_too_large_a_vocabulary_is_an_error_that_says_the_largest(self, documents, kind):
        with pytest.raises(
            UserError, match=r"^tokenizer\.vocab: 50000 is more than the 0.1 MB of text learned from support"
        ) as caught:
            SentencePiece(vocab=50000, kind=kind).train(documents)
        assert "\n" not in str(caught.value)
        largest = int(re.search(r"largest possible is (\d+)$", str(caught.value))[1])
        assert SentencePiece(vocab=largest, kind=kind).train(documents).vocab_size == largest
        with pytest.raises(UserError, match=r"is more than the 0\.1 MB of text learned from support"):
            SentencePiece(vocab=largest + 1, kind=kind).train(documents)

    def test_too_small_a_vocabulary_is_an_error_that_says_the_smallest(self):
        characters = "".join(chr(0x4E00 + number) for number in range(1000)) * 5
        with pytest.raises(UserError, match=r"tokenizer\.vocab: 300 is too small .*smallest possible is (\d+)") as caught:
            SentencePiece(vocab=300).train([characters])
        smallest = int(re.search(r"(\d+)$", str(caught.value))[1])
        assert SentencePiece(vocab=smallest).train([characters]).vocab_size == smallest

    def test_long_lines_are_learned_from(self):
        lines = [" ".join(f"word{number % 50}" for number in range(start, start + 1500)) for start in range(3)]
        assert min(map(len, lines)) > 8000
        tokenizer = SentencePiece(vocab=280).train(["".join(line + "\n" for line in lines)])
        assert len(tokenizer.encode("word")) == 1

    @pytest.mark.parametrize("texts", [[], [""], ["\n\n"]])
    def test_no_text_is_an_error(self, texts):
        with pytest.raises(UserError, match="no text to learn from"):
            SentencePiece().train(texts)

    @pytest.mark.parametrize("odd", ["\x00", "\t", "\r", "\u2581", "\u2585", "\ufffd", "x" * 50_000])
    def test_odd_characters_in_the_corpus_do_no_harm(self, documents, odd):
        texts = [*documents, odd, f"a{odd}b\n{odd}"]
        tokenizer = SentencePiece(vocab=400).train(texts)
        assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)

    def test_expressions(self):
        made = create("tokenizer", "sentencepiece(vocab=512, kind='unigram', sample_megabytes=0.5)", where="data.tokenizer")
        assert made == SentencePiece(512, "unigram", 0.5)
        assert create("tokenizer", "bytes", where="data.tokenizer") == Bytes()
        for bad, message in (
            ("sentencepiece(vocab=100)", "vocab=100: allowed are 260"),
            ("sentencepiece(sample_megabytes=0)", r"sample_megabytes=0\.0 must be above 0"),
            ("sentencepiece(kind='words')", "kind"),
        ):
            with pytest.raises(UserError, match=rf"data\.tokenizer.*{message}"):
                create("tokenizer", bad, where="data.tokenizer")

    def test_fingerprints_tell_expressions_apart(self):
        expressions = [Bytes(), SentencePiece(), SentencePiece(512), SentencePiece(kind="unigram"), SentencePiece(4096, "bpe", 1)]
        assert len({expression.fingerprint() for expression in expressions}) == len(expressions)
        assert SentencePiece().fingerprint() == SentencePiece(4096, "bpe", 10.0).fingerprint()


class TestSample:
    def corpus(self):
        return [f"document {number}\n" + f"line of {number}\n" * 400 for number in range(400)]

    def test_it_has_about_the_size_asked_for_and_is_spread_evenly(self):
        corpus = self.corpus()
        sample = sample_blocks(corpus, 200_000)
        assert 200_000 <= sum(map(len, sample)) < 210_000
        numbers = [int(re.search(r"line of (\d+)", block)[1]) for block in sample]
        assert np.histogram(numbers, bins=4, range=(0, 400))[0].min() > len(numbers) / 8

    def test_it_does_not_depend_on_the_order(self):
        corpus = self.corpus()
        assert sample_blocks(corpus, 100_000) == sample_blocks(corpus[::-1], 100_000)

    def test_what_is_repeated_is_taken_once(self):
        corpus = self.corpus()
        assert sample_blocks(corpus * 5, 100_000) == sample_blocks(corpus, 100_000)

    def test_a_small_corpus_is_taken_whole(self, documents):
        assert sorted(sample_blocks(documents, 10**9)) == sorted(documents)

    def test_one_long_document_is_sampled_too(self):
        text = "".join(self.corpus())
        assert 100_000 <= sum(map(len, sample_blocks([text], 100_000))) < 110_000
        assert "".join(tokenizers._blocks(text, 4096)) == text
        assert "".join(tokenizers._blocks("x" * 100_000, 4096)) == "x" * 100_000


class TestFile:
    def model(self, path, documents, **arguments):
        lines = [line for document in documents for line in document.splitlines() if line]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(path), vocab_size=200, minloglevel=2, **arguments
        )
        return f"{path}.model"

    def test_ids_are_the_model_s_own(self, tmp_path, documents):
        path = self.model(tmp_path / "plain", documents)
        tokenizer = create("tokenizer", f"sentencepiece_file(path='{path}')", where="data.tokenizer").train([])
        reference = sentencepiece.SentencePieceProcessor(model_file=path)
        text = "def read_lines(path):\n    with  open"
        assert tokenizer.encode(text).tolist() == reference.encode(text)
        assert tokenizer.document_start == reference.bos_id()
        assert tokenizer.decode([reference.bos_id(), *reference.encode("the boats"), reference.eos_id()]) == "the boats"
        tokenizer.save(tmp_path / "saved")
        assert load_tokenizer(tmp_path / "saved").encode(text).tolist() == reference.encode(text)

    def test_a_model_without_a_beginning_uses_its_end(self, tmp_path, documents):
        path = self.model(tmp_path / "t5", documents, bos_id=-1, eos_id=1, unk_id=2, pad_id=0)
        assert SentencePieceFile(path).train([]).document_start == 1

    def test_what_is_no_model_is_an_error(self, tmp_path, documents):
        (tmp_path / "text.model").write_text("this is no model")
        neither = self.model(tmp_path / "neither", documents, bos_id=-1, eos_id=-1)
        for path, message in (
            (tmp_path / "missing.model", "No such file"),
            (tmp_path / "text.model", "is not a usable SentencePiece model"),
            (neither, "neither a beginning-of-sentence nor an end-of-sentence"),
        ):
            with pytest.raises(UserError, match=rf"tokenizer\.path: '{path}'.*{message}"):
                SentencePieceFile(str(path)).train([])

    def test_fingerprint_is_of_the_content(self, tmp_path):
        for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
            (tmp_path / name).write_text(text)
        one, two, three = (SentencePieceFile(str(tmp_path / name)).fingerprint() for name in "abc")
        assert one == two != three
