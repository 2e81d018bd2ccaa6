import dataclasses
import json
import threading
import time

import numpy as np
import pytest

from taxonomy.data import tokenizers
from taxonomy.data.prepare import prepare
from taxonomy.data.sources import StandardLibrarySource, TextSource
from taxonomy.data.tokenizers import Bytes, SentencePiece
from taxonomy.errors import UserError


@dataclasses.dataclass
class Source:
    """Documents in memory, and a count of how often they were read."""

    train: tuple = ("first", "second é", "third\n")
    validation: tuple = ("held", "out é")
    delay: float = 0.0
    reads: list = dataclasses.field(default_factory=list)

    def documents(self, split):
        self.reads.append(split)
        for document in getattr(self, split, ()):
            time.sleep(self.delay)
            yield document

    def fingerprint(self):
        return repr((self.train, self.validation))


PIECES = SentencePiece(vocab=273)


def quiet(line):
    pass


def test_documents_are_written_one_after_the_other(tmp_path):
    source = Source()
    prepared = prepare(source, Bytes(), tmp_path, report=quiet)
    for split in ("train", "validation"):
        texts = [text.encode() for text in getattr(source, split)]
        assert prepared.tokens(split).tolist() == [token for text in texts for token in (256, *text)]
        assert prepared.documents(split) == len(texts)
        assert prepared.bytes(split) == sum(map(len, texts))
        assert prepared.tokens(split).dtype == np.uint16
    assert isinstance(prepared.tokens("train"), np.memmap)
    assert prepared.text_bytes("validation") == "heldout é".encode()
    with pytest.raises(ValueError, match="train split is not kept"):
        prepared.text_bytes("train")
    with pytest.raises(ValueError, match=r"'test' was not prepared \(prepared: train, validation\)"):
        prepared.tokens("test")


def test_real_text_survives(corpus, tmp_path, documents):
    source = TextSource(f"{corpus}/**/*.txt", validation=0.3)
    prepared = prepare(source, SentencePiece(vocab=400), tmp_path, report=quiet)
    for split in ("train", "validation"):
        text = "".join(source.documents(split))
        assert prepared.tokenizer.decode(prepared.tokens(split)) == text
        assert (prepared.tokens(split) == prepared.tokenizer.document_start).sum() == prepared.documents(split)
    assert prepared.text_bytes("validation").decode() == text
    assert prepared.documents("train") + prepared.documents("validation") == len(documents)


def test_the_standard_library(tmp_path):
    prepared = prepare(StandardLibrarySource(), Bytes(), tmp_path, splits=("validation",), report=quiet)
    assert len(prepared.tokens("validation")) == prepared.bytes("validation") + prepared.documents("validation")
    assert prepared.bytes("validation") == len(prepared.text_bytes("validation")) > 200_000


def test_it_is_done_once(tmp_path):
    source, reports = Source(), []
    first = prepare(source, PIECES, tmp_path, report=reports.append)
    assert source.reads == ["train", "train", "validation"] and reports
    source.reads.clear(), reports.clear()
    again = prepare(source, PIECES, tmp_path, report=reports.append)
    assert source.reads == [] and reports == []
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.tokens("train"), first.tokens("train"))


def test_another_split_is_added_without_the_others(tmp_path):
    source = Source()
    prepare(source, Bytes(), tmp_path, report=quiet)
    source.reads.clear()
    source.test = ("test document",)
    prepared = prepare(source, Bytes(), tmp_path, splits=("validation", "test"), report=quiet)
    assert source.reads == ["test"]
    assert prepared.text_bytes("test") == b"test document"


def test_other_text_or_another_tokenizer_is_prepared_anew(tmp_path):
    one = prepare(Source(), Bytes(), tmp_path, report=quiet)
    two = prepare(Source(train=("other",)), Bytes(), tmp_path, report=quiet)
    three = prepare(Source(), PIECES, tmp_path, report=quiet)
    assert len({prepared.directory for prepared in (one, two, three)}) == 3
    assert len({prepared.fingerprint for prepared in (one, two, three)}) == 3
    assert two.tokenizer.decode(two.tokens("train")) == "other"


def test_the_fingerprint_is_of_the_content(tmp_path):
    """Two machines whose files differ in nothing but their dates agree."""

    class Touched(Source):
        def fingerprint(self):
            return "another date"

    one, two = prepare(Source(), Bytes(), tmp_path, report=quiet), prepare(Touched(), Bytes(), tmp_path, report=quiet)
    assert one.directory != two.directory
    assert one.fingerprint == two.fingerprint


def test_large_vocabularies_take_32_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers.BytesTokenizer, "vocab_size", 2**16 + 1)
    prepared = prepare(Source(), Bytes(), tmp_path, report=quiet)
    assert prepared.tokens("train").dtype == np.uint32
    assert prepared.tokens("train")[:3].tolist() == [256, ord("f"), ord("i")]


def test_batches_do_not_show(tmp_path, monkeypatch, documents):
    source = Source(train=tuple(documents))
    whole = prepare(source, Bytes(), tmp_path / "whole", report=quiet)
    monkeypatch.setitem(prepare.__globals__, "BATCH_CHARACTERS", 100)
    parts = prepare(source, Bytes(), tmp_path / "parts", report=quiet)
    np.testing.assert_array_equal(whole.tokens("train"), parts.tokens("train"))
    assert whole.fingerprint == parts.fingerprint


def test_an_empty_held_out_split_is_empty(tmp_path):
    prepared = prepare(Source(validation=()), Bytes(), tmp_path, report=quiet)
    assert len(prepared.tokens("validation")) == prepared.documents("validation") == prepared.bytes("validation") == 0
    assert prepared.text_bytes("validation") == b""


def test_no_training_document_is_an_error_and_leaves_no_result(tmp_path):
    with pytest.raises(UserError, match="the train split has no document"):
        prepare(Source(train=()), Bytes(), tmp_path, report=quiet)
    assert not list(tmp_path.rglob("tokens.bin"))


def test_what_a_source_raises_comes_through_and_leaves_no_part(tmp_path):
    class Broken(Source):
        def documents(self, split):
            yield "one"
            raise UserError("data.source: a.jsonl:2: no field 'text'")

    with pytest.raises(UserError, match=r"a\.jsonl:2"):
        prepare(Broken(), Bytes(), tmp_path, report=quiet)
    assert [path.name for path in next(tmp_path.iterdir()).iterdir()] == ["tokenizer"]
    assert not [thread for thread in threading.enumerate() if thread.name == "report"]


def test_an_unknown_split_is_an_error(tmp_path):
    for splits in (("train", "dev"), ()):
        with pytest.raises(ValueError, match="allowed are train, validation, test"):
            prepare(Source(), Bytes(), tmp_path, splits=splits, report=quiet)


def test_progress_is_reported_while_there_is_work(tmp_path, monkeypatch):
    monkeypatch.setitem(prepare.__globals__, "REPORT_SECONDS", 0.05)
    monkeypatch.setitem(prepare.__globals__, "BATCH_CHARACTERS", 1)
    reports = []
    prepare(Source(train=("first", "second é", "third\n", "fourth") * 5, delay=0.02), PIECES, tmp_path, report=reports.append)
    assert sum(line.startswith("learning the tokenizer") for line in reports) >= 3
    counts = [int(line.split()[2]) for line in reports if line.startswith("tokenising train")]
    assert len(counts) >= 4 and counts == sorted(counts) and counts[0] < counts[-1] == 20


class TestDamage:
    def test_a_file_cut_short(self, tmp_path):
        prepared = prepare(Source(), Bytes(), tmp_path, report=quiet)
        path = prepared.directory / "train" / "tokens.bin"
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(UserError, match=r"tokens\.bin has \d+ bytes instead of \d+: delete"):
            prepare(Source(), Bytes(), tmp_path, report=quiet)

    def test_a_file_lost(self, tmp_path):
        prepared = prepare(Source(), Bytes(), tmp_path, report=quiet)
        (prepared.directory / "validation" / "counts.json").unlink()
        with pytest.raises(UserError, match=r"validation is damaged .*: delete it"):
            prepare(Source(), Bytes(), tmp_path, report=quiet)

    def test_counts_are_plain_data(self, tmp_path):
        prepared = prepare(Source(), Bytes(), tmp_path, report=quiet)
        counts = json.loads((prepared.directory / "train" / "counts.json").read_text())
        assert {name: counts[name] for name in ("documents", "tokens", "bytes")} == {"documents": 3, "tokens": 23, "bytes": 20}
