"""The tokenizer_file component. What published files look like is tested in tests/interop."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from taxonomy.data.tokenizers import load_tokenizer
from taxonomy.errors import UserError
from taxonomy.registry import create


@pytest.fixture
def path(tmp_path, documents):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    # What a library's own calls may have left in the file must not cut or fill ours.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_every_text_survives(path, documents, tmp_path):
    recipe = create("tokenizer", f"tokenizer_file(path='{path}', start='<end>')", "data.tokenizer")
    tokenizer = recipe.train([])
    for text in [*documents[:20], "", "é 汉字 😀\n\t  "]:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert tokenizer.decode([tokenizer.document_start, *ids]) == text
    assert tokenizer.document_start == tokenizer.document_end == 0
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert (loaded.vocab_size, loaded.document_start, loaded.fingerprint) == (
        tokenizer.vocab_size,
        tokenizer.document_start,
        tokenizer.fingerprint,
    )
    assert recipe.fingerprint() != create("tokenizer", f"tokenizer_file(path='{path}')", "data.tokenizer").fingerprint()


def test_what_cannot_be_used(path, tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    for arguments, words in (
        (f"path='{path}'", "no token begins a document"),
        (f"path='{path}', start='<begin>'", "no token '<begin>'"),
        (f"path='{tmp_path}/absent.json'", "No such file"),
        (f"path='{tmp_path}/broken.json'", "not a usable tokenizer.json"),
    ):
        with pytest.raises(UserError, match=words):
            create("tokenizer", f"tokenizer_file({arguments})", "data.tokenizer").train([])
