"""Tokenizer files of published models: which token is which, what travels, and what is said about what cannot be read."""

import json
import pathlib

import numpy as np
import pytest
import sentencepiece

from taxonomy.data.tokenizers import load_tokenizer
from taxonomy.errors import UserError
from taxonomy.interop import tokenizer_files
from taxonomy.training import checkpoints

from .published import TEXTS, byte_pairs, pieces, write

BOS, EOS = 0, 1
ADDED = {"content": "</s>", "lstrip": False, "special": True}


@pytest.mark.parametrize(
    ("template", "settings", "start", "end"),
    [
        ("<s> $A", {"tokenizer_config": {"eos_token": "</s>"}}, BOS, EOS),
        ("<s> $A </s>", {}, BOS, BOS),
        (None, {"tokenizer_config": {"bos_token": "<s>", "eos_token": ADDED}}, EOS, EOS),
        (None, {"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}}, BOS, EOS),
        (None, {"special_tokens_map": {"bos_token": "<s>"}}, BOS, BOS),
        (None, {"generation_config": {"bos_token_id": 0, "eos_token_id": [1, 5]}}, EOS, EOS),
        (None, {"config": {"eos_token_id": 1}, "tokenizer_config": {"eos_token": "<s>"}}, BOS, BOS),
        ("<s> $A", {"tokenizer_config": {"eos_token": "absent"}, "config": {"eos_token_id": 999}}, BOS, BOS),
    ],
)
def test_what_begins_and_ends_a_document(template, settings, start, end, tmp_path):
    tokenizer = tokenizer_files.read(write(tmp_path, tokenizer=byte_pairs(template=template), **settings), vocab=512)
    assert (tokenizer.document_start, tokenizer.document_end) == (start, end)


def test_ids_are_those_of_the_library(tmp_path):
    library = byte_pairs(template="<s> $A")
    write(tmp_path / "from", tokenizer=library, tokenizer_config={"eos_token": "</s>"})
    assert tokenizer_files.into_workdir(tmp_path / "from", tmp_path / "to", 512) == ""
    tokenizer = checkpoints.restore_tokenizer(tmp_path / "to")
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text.replace("<s>", "").replace("</s>", "")
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_sentencepiece_models(tmp_path):
    model = pieces()
    write(tmp_path / "from", tokenizer=model)
    assert tokenizer_files.into_workdir(tmp_path / "from", tmp_path / "to", 512) == ""
    tokenizer = checkpoints.restore_tokenizer(tmp_path / "to")
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == library.encode(text)
    assert (tokenizer.document_start, tokenizer.document_end) == (library.bos_id(), library.eos_id())
    write(tmp_path / "from", tokenizer_config={"eos_token": "<unk>"})
    assert tokenizer_files.read(tmp_path / "from", 512).document_end == library.unk_id()


def test_a_vocabulary_and_merges_of_bytes(tmp_path):
    library = byte_pairs()
    library.model.save(str(tmp_path))
    write(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "bos_token": "<s>"})
    tokenizer = tokenizer_files.read(tmp_path, 512)
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids
    write(tmp_path, tokenizer_config={"tokenizer_class": "BioGptTokenizer"})
    with pytest.raises(UserError, match=r"no tokenizer.json or tokenizer.model"):
        tokenizer_files.read(tmp_path, 512)


def test_tokens_beyond_the_models_vocabulary_are_left_out(tmp_path):
    library = byte_pairs(template="<s> $A")
    library.add_special_tokens(["<image>"])
    size = library.get_vocab_size()
    tokenizer = tokenizer_files.read(write(tmp_path, tokenizer=library), vocab=size - 1)
    assert tokenizer.vocab_size == size - 1
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([size - 1])


def test_files_travel_unchanged(tmp_path):
    source = write(
        tmp_path / "from",
        tokenizer=byte_pairs(),
        tokenizer_config={"eos_token": "</s>", "chat_template": "{{ x }}"},
        special_tokens_map={},
        generation_config={"temperature": 0.6},
        config={"model_type": "llama"},
    )
    (source / "merges.txt").write_text("#version")
    (source / "other.py").write_text("")
    tokenizer_files.into_workdir(source, tmp_path / "work", 512)
    tokenizer_files.out_of_workdir(tmp_path / "work", tmp_path / "back")
    travelled = sorted(p.name for p in (tmp_path / "back").iterdir())
    assert travelled == sorted({p.name for p in source.iterdir()} - {"config.json", "other.py"})
    for name in travelled:
        assert (source / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", "{", "cannot be read"),
        ("tokenizer.json", json.dumps({"model": 7}), "cannot be read"),
        ("tokenizer.model", "no model", "cannot be read"),
        ("tokenizer_config.json", "[]", "expected an object"),
        ("README.md", "", "no tokenizer.json or tokenizer.model"),
    ],
)
def test_what_is_no_tokenizer(name, content, words, tmp_path):
    pathlib.Path(tmp_path / "from").mkdir()
    (tmp_path / "from" / name).write_text(content)
    problem = tokenizer_files.into_workdir(tmp_path / "from", tmp_path / "work", 512)
    assert words in problem and "\n" not in problem
    with pytest.raises(UserError, match="has no tokenizer"):
        checkpoints.restore_tokenizer(tmp_path / "work")


def test_no_token_begins_a_document(tmp_path):
    assert "begins a document" in tokenizer_files.into_workdir(write(tmp_path, tokenizer=byte_pairs()), tmp_path / "work", 512)


def test_a_damaged_copy_is_noticed(tmp_path):
    write(tmp_path / "from", tokenizer=byte_pairs(template="<s> $A"))
    tokenizer_files.into_workdir(tmp_path / "from", tmp_path / "work", 512)
    model = tmp_path / "work" / "tokenizer" / "model.json"
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"model.json is damaged"):
        load_tokenizer(model.parent)


def test_fingerprints_differ(tmp_path):
    with_start, without = byte_pairs(template="<s> $A"), byte_pairs()
    write(tmp_path / "a", tokenizer=with_start)
    write(tmp_path / "b", tokenizer=without, config={"eos_token_id": 1})
    prints = {tokenizer_files.read(tmp_path / name, 512).fingerprint for name in "ab"}
    assert len(prints) == 2
    assert np.array_equal(*(tokenizer_files.read(tmp_path / name, 512).encode("read") for name in "ab"))
