"""Small tokenizers in the files of published models, made with the libraries those come from."""

import io
import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

NAMES = ("abc", "rows", "ünïcode", "汉字")
CORPUS = [f"def read_{name}(path, count={i}): return open(path)  # {name}!" for i, name in enumerate(NAMES)] * 9
TEXTS = ["", "def read_rows(path)", "  two  spaces\n\tand é 汉字 😀", "<s> is no text </s>", "a" * 300]


def byte_pairs(vocab=300, template=None, specials=("<s>", "</s>")) -> tokenizers.Tokenizer:
    """Merges of bytes; with a template such as "<s> $A" the tokenizer itself begins texts."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(specials), initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if template:
        ids = [(token, tokenizer.token_to_id(token)) for token in specials]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def pieces(vocab=320, **options) -> bytes:
    """A SentencePiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=vocab,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def write(directory, **files):
    """Files by name without a dot: bytes as they are, all else as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (directory / f"{name}.model").write_bytes(content)
        elif isinstance(content, tokenizers.Tokenizer):
            content.save(str(directory / f"{name}.json"))
        else:
            (directory / f"{name}.json").write_text(json.dumps(content))
    return directory
