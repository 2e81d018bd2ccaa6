"""Records written as pairs, from JSON lines and from TensorFlow Datasets, and what becomes of them on disk."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.registered import skip_registration

from taxonomy.data.pairs import Form
from taxonomy.data.prepare import prepare
from taxonomy.data.sources import Pair
from taxonomy.data.tokenizers import Bytes, SentencePiece
from taxonomy.errors import UserError
from taxonomy.registry import create

NLI = "input='mnli premise: {premise} hypothesis: {hypothesis}', target='{label}'"


def source(sentence):
    return create("source", sentence, "config.data.source")


def test_a_record_becomes_what_the_texts_say():
    record = {"a": b"\xc3\xa9{b}", "b": {"c": [np.int64(3), 4.26]}, "yes": True, "label": 1}
    assert Form("x {a} {{{b.c.0}}}", "{yes}")(record, "here") == Pair("x é{b} {3}", "True")
    assert Form("{label}", "{label}", labels=("no", "maybe"))(record, "here") == Pair("1", "maybe")
    # STS-B: to the nearest multiple of 0.2.
    assert [Form("", "{s}", step=0.2)({"s": np.float32(s)}, "").target for s in (0, 2.57, 2.9, 3.25, 5)] == [
        "0.0",
        "2.6",
        "3.0",
        "3.2",
        "5.0",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{c}", r"here: no field 'c' \(there are: a, b\)"),
        ("{b.1}", "here: no field 'b.1'"),
        ("{b}", "here: b is list, neither a text nor a number"),
        ("{a}", r"here: a=-1 is none of the 2 labels \(some test splits hide them\)"),
    ],
)
def test_what_cannot_be_written_is_named(text, message):
    with pytest.raises(UserError, match=rf"^data\.source: {message}"):
        Form("", text, labels=("no", "yes"))({"a": -1, "b": [3]}, "here")


@pytest.mark.parametrize("text", ["{a.__class__[0]}", "{0}", "{}", "{a!r}", "{a:>10}", "{a", "a}"])
def test_a_text_that_cannot_be_read_is_an_error(text):
    with pytest.raises(UserError, match=r"config\.data\.source.*input="):
        source(f"jsonl_pairs(glob='x', input={text!r})")


def test_lines_are_pairs_split_by_their_inputs(tmp_path):
    lines = [json.dumps({"q": f"q{i % 50}", "a": f"a{i}"}) for i in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    glob = f"glob='{tmp_path}/*.jsonl'"
    found = source(f"jsonl_pairs({glob}, input='ask: {{q}}', target='{{a}}', validation=0.2, test=0.2)")
    splits = {split: list(found.documents(split)) for split in ("train", "validation", "test")}
    assert sorted(pair for pairs in splits.values() for pair in pairs) == sorted((f"ask: q{i % 50}", f"a{i}") for i in range(100))
    inputs = [{pair.input for pair in pairs} for pairs in splits.values()]
    assert all(inputs) and sum(map(len, inputs)) == 50
    others = [f"jsonl_pairs({glob}{more})" for more in ("", ", input='{q}'", ", target='{a}'", ", labels=('x',)", ", step=0.1")]
    assert len({source(sentence).fingerprint() for sentence in others}) == 5
    with pytest.raises(UserError, match=r"a\.jsonl:1: no field 'input' \(there are: a, q\)"):
        list(source(f"jsonl_pairs({glob})").documents("train"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A dataset of premises and hypotheses with a class, in the layout of TFDS."""
    text, label = tfds.features.Text(), tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])

    def info(self):
        features = tfds.features.FeaturesDict({"premise": text, "hypothesis": text, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def examples(split, size):
        for i in range(size):
            yield i, {"premise": f"{split} {i}", "hypothesis": f"é {i}", "label": i % 3}

    splits = {"train": 6, "validation_matched": 3}
    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": "nli",
        "_info": info,
        "_split_generators": lambda self, manager: {split: examples(split, size) for split, size in splits.items()},
        "_generate_examples": None,
    }
    with skip_registration():
        builder = type("Nli", (tfds.core.GeneratorBasedBuilder,), members)
    directory = tmp_path_factory.mktemp("tfds")
    builder(data_dir=directory, file_format="array_record").download_and_prepare()
    return str(directory)


def test_examples_are_pairs_by_the_names_of_their_classes(data_dir):
    place = f"data_dir='{data_dir}', validation='validation_matched'"
    own = source(f"tfds_pairs('nli', {NLI}, {place})")
    names = ("entailment", "neutral", "contradiction")
    for split, size, name in (("train", 6, "train"), ("validation", 3, "validation_matched")):
        wanted = [(f"mnli premise: {name} {i} hypothesis: é {i}", names[i % 3]) for i in range(size)]
        assert list(own.documents(split)) == wanted
    given = source(f"tfds_pairs('nli', {NLI}, {place}, labels=('yes', 'maybe', 'no'))")
    assert [pair.target for pair in given.documents("validation")] == ["yes", "maybe", "no"]
    assert own.fingerprint() != given.fingerprint()
    with pytest.raises(UserError, match=r"tfds_pairs\(dataset='nli'.*example 0 of 'train': no field 'premis'"):
        list(source(f"tfds_pairs('nli', input='{{premis}}', target='{{label}}', {place})").documents("train"))


@pytest.mark.parametrize("tokenizer", [Bytes(), SentencePiece(vocab=400)], ids=["bytes", "sentencepiece"])
def test_the_separator_is_an_id_that_no_text_has(tokenizer, tmp_path, documents):
    pairs = [Pair(text[:40], text[40:]) for text in documents[:30]] + [Pair("", "b"), Pair("a <s> </s> \x00\x01", ""), "alone"]

    class Pairs:
        def documents(self, split):
            yield from pairs

        def fingerprint(self):
            return "pairs"

    prepared = prepare(Pairs(), tokenizer, tmp_path, report=lambda line: None)
    tokens, own = prepared.tokens("train"), prepared.tokenizer
    assert prepared.separator == own.vocab_size and prepared.documents("train") == 33
    assert (tokens == prepared.separator).sum() == 32 and (tokens == own.document_start).sum() == 33
    parts = np.split(tokens, np.flatnonzero(tokens == own.document_start))[1:]
    for document, part in zip(pairs, parts, strict=True):
        halves = np.split(part[1:], np.flatnonzero(part[1:] == prepared.separator))
        texts = [own.decode(half[half != prepared.separator]) for half in halves]
        assert texts == ([document] if isinstance(document, str) else list(document))
    written = "".join("".join(document) for document in pairs).encode()
    assert prepared.text_bytes("validation") == written and prepared.bytes("train") == len(written)


def test_documents_have_no_separator(tmp_path, corpus):
    assert prepare(source(f"text(glob='{corpus}/**/*.txt')"), Bytes(), tmp_path, report=lambda line: None).separator is None
