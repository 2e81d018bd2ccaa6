"""The tokenizer files of a published model: kept in a workdir as they are, and read as a tokenizer of ours."""

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from taxonomy.data.library_tokenizer import LibraryTokenizer
from taxonomy.data.tokenizers import SentencePieceTokenizer, Tokenizer
from taxonomy.errors import UserError

LIBRARY, PIECES, VOCABULARY, MERGES = "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
# What travels; config.json is written anew.
FILES = (LIBRARY, PIECES, VOCABULARY, MERGES, "added_tokens.json", *SETTINGS[:-1])
# In a workdir: beside what `Tokenizer.save` writes.
FOLDER, ORIGINALS = "tokenizer", "original"


def into_workdir(source: str | pathlib.Path, workdir: str | pathlib.Path, vocab: int) -> str:
    """Copies the files of `source`, and saves the tokenizer they make, of at most `vocab` tokens. What is wrong, or ""."""
    source, folder = pathlib.Path(source), pathlib.Path(workdir) / FOLDER
    copy(source, folder / ORIGINALS)
    try:
        read(source, vocab).save(folder)
    except UserError as error:
        return str(error)
    return ""


def out_of_workdir(workdir: str | pathlib.Path, target: str | pathlib.Path) -> None:
    """Copies the files that came with a workdir's parameters, if there are any."""
    copy(pathlib.Path(workdir) / FOLDER / ORIGINALS, pathlib.Path(target))


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    found = [name for name in FILES if (source / name).is_file()]
    if found:
        target.mkdir(parents=True, exist_ok=True)
    for name in found:
        shutil.copyfile(source / name, target / name)


def read(directory: pathlib.Path, vocab: int) -> Tokenizer:
    """The tokenizer of a directory: tokenizer.json, a SentencePiece model, or a vocabulary and merges of bytes.

    Raises UserError when it has none of these, or none that can be used.
    """
    there = {name for name in FILES if (directory / name).is_file()}
    try:
        settings = _settings(directory)
        if LIBRARY in there:
            return _library((directory / LIBRARY).read_bytes(), settings, vocab)
        if PIECES in there:
            return _pieces((directory / PIECES).read_bytes(), settings, vocab)
        # Other classes keep other vocabularies under these names.
        if {VOCABULARY, MERGES} <= there and settings.get("tokenizer_class") in ("GPT2Tokenizer", "GPT2TokenizerFast"):
            return _library(_byte_pairs(directory, settings), settings, vocab)
    except (OSError, RuntimeError, ValueError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the tokenizer of {directory} cannot be read ({message})") from error
    raise UserError(f"no {LIBRARY} or {PIECES} in {directory}")


def _library(model: bytes, settings: Mapping[str, Any], vocab: int) -> Tokenizer:
    # Looking tokens up needs no start of documents.
    lookup = LibraryTokenizer(model, document_start=0).token_id
    start, end = (_special(settings, name, lookup, vocab) for name in ("bos", "eos"))
    own = settings.get("add_bos_token") is True
    tokenizer = LibraryTokenizer(model, start if own else None, start if end is None else end)
    return LibraryTokenizer(model, tokenizer.document_start, tokenizer.document_end, vocab)


def _byte_pairs(directory: pathlib.Path, settings: Mapping[str, Any]) -> bytes:
    """The tokenizer.json of a vocabulary and merges of bytes."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    tokenizer = tokenizers.Tokenizer(models.BPE.from_file(str(directory / VOCABULARY), str(directory / MERGES)))
    prefixed = settings.get("add_prefix_space") is True
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefixed)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [_text(settings, name) for name in ("bos", "eos", "unk", "pad")]
    tokenizer.add_special_tokens(list(dict.fromkeys(text for text in texts if text and tokenizer.token_to_id(text) is not None)))
    return tokenizer.to_str().encode()


def _pieces(model: bytes, settings: Mapping[str, Any], vocab: int) -> Tokenizer:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.get_piece_size()
    if size > vocab:
        raise ValueError(f"it has {size} tokens, the model {vocab}")
    pieces = {processor.id_to_piece(i): i for i in range(size)}
    end = _special(settings, "eos", pieces.get, size)
    if end is None and processor.eos_id() >= 0:
        end = processor.eos_id()
    return SentencePieceTokenizer(model, lossless=False, document_end=end)


def _settings(directory: pathlib.Path) -> dict[str, Any]:
    """The settings of all files together; the first that has one counts."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        if (directory / name).is_file():
            values = json.loads((directory / name).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"{name}: expected an object")
            found = {**{key: value for key, value in values.items() if value is not None}, **found}
    return found


def _text(settings: Mapping[str, Any], name: str) -> str | None:
    """The text of the token that the settings call bos, eos, ..."""
    token = settings.get(f"{name}_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _special(settings: Mapping[str, Any], name: str, lookup: Callable[[str], int | None], vocab: int) -> int | None:
    """The id of such a token: by its text, or else by number."""
    text = _text(settings, name)
    number = None if text is None else lookup(text)
    if number is None:
        numbers = settings.get(f"{name}_token_id")
        number = numbers[0] if isinstance(numbers, list) and numbers else numbers
    return number if type(number) is int and 0 <= number < vocab else None
