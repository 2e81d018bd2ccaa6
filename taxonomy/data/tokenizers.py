"""Tokenizers: text to ids and back. An expression trains or loads one; a directory of plain data keeps it.

The id `document_start` begins every document and stands for no text. `bytes` and `sentencepiece` are lossless: decoding
gives back every text, whatever its characters.
"""

import abc
import array
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from taxonomy.data.storage import digest
from taxonomy.errors import UserError
from taxonomy.registry import component

DESCRIPTION, MODEL = "tokenizer.json", "tokenizer.model"
# SentencePiece writes a space as U+2581. Where the text itself has that character it would come back as a space, so it is
# spelled in bytes.
SPACE_MARK = "\u2581"
SEPARATOR = re.compile(f"([\n{SPACE_MARK}])")


class Tokenizer(abc.ABC):
    """Text to ids and back."""

    kind: str
    vocab_size: int
    document_start: int
    # What ends a document in the training of a model from elsewhere, where that is another token than begins the next.
    document_end: int
    # Whether `document_start` comes before every text that a model is given, not only where a document begins.
    begins = True
    fingerprint: str

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32 [N], without `document_start`."""

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    @abc.abstractmethod
    def _special(self, token: int) -> bool: ...

    def pieces(self) -> list[bytes | None] | None:
        """The bytes that each token adds to a text, None for those that stand for no text; None where that depends on others."""
        return None

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [N], without `document_start`."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; those that stand for no text are skipped, incomplete characters become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        ids = [int(token) for token in ids]
        outside = [token for token in ids if not 0 <= token < self.vocab_size]
        if outside:
            raise ValueError(f"id {outside[0]} is outside the vocabulary of {self.vocab_size}")
        return self._decode([token for token in ids if not self._special(token)])

    def save(self, directory: Path | str) -> None:
        """Writes the tokenizer as data: a JSON that describes it, and its model if it has one."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        description = {"kind": self.kind, "vocab_size": self.vocab_size, "document_start": self.document_start}
        if self.document_end != self.document_start:
            description["document_end"] = self.document_end
        (directory / DESCRIPTION).write_text(json.dumps(description | self._write(directory), indent=2) + "\n")

    def _write(self, directory: Path) -> dict[str, object]:
        return {}


class BytesTokenizer(Tokenizer):
    """Ids 0..255 are the bytes of UTF-8, 256 begins a document."""

    kind = "bytes"
    vocab_size = 257
    document_start = document_end = 256
    fingerprint = digest("bytes")

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def _decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def _special(self, token: int) -> bool:
        return token == self.document_start

    def pieces(self) -> list[bytes | None]:
        return [*(bytes([byte]) for byte in range(256)), None]


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model. `lossless` says that it was trained here, with settings under which every text survives."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, lossless: bool, document_end: int | None = None):
        """Raises ValueError for a model that has no piece to begin a document."""
        import sentencepiece

        self._model, self.lossless = model, lossless
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.get_piece_size()
        self.document_start = self._processor.bos_id()
        if self.document_start < 0:
            # Some models have no piece that begins a text; the one that ends it separates documents just as well.
            self.document_start = self._processor.eos_id()
        if self.document_start < 0:
            raise ValueError("the model has neither a beginning-of-sentence nor an end-of-sentence piece")
        self.document_end = self.document_start if document_end is None else document_end
        self.fingerprint = digest("sentencepiece", hashlib.sha256(model).hexdigest(), lossless)
        self._separators = {
            "\n": [self._processor.piece_to_id("\n")],
            SPACE_MARK: [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()],
        }

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not self.lossless:
            return [np.array(ids, np.int32) for ids in self._processor.encode(list(texts))]
        # A newline is a piece of its own, so lines are encoded apart: what becomes of one does not depend on what stands
        # before it (the unigram model adds scores up in float32, too coarse for long texts), and memory stays small.
        rows = [SEPARATOR.split(text) for text in texts]
        encoded = self._encode_lines([line for row in rows for line in row[::2]])
        arrays = []
        for row in rows:
            ids = array.array("i")
            for place, part in enumerate(row):
                ids.extend(self._separators[part] if place % 2 else next(encoded))
            arrays.append(np.array(ids, np.int32))
        return arrays

    def _encode_lines(self, lines: list[str]) -> Iterator[list[int]]:
        for first in range(0, len(lines), 2**14):
            yield from self._processor.encode(lines[first : first + 2**14])

    def _decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def _special(self, token: int) -> bool:
        return self._processor.is_control(token)

    def pieces(self) -> list[bytes | None]:
        return [self._piece(token) for token in range(self.vocab_size)]

    def _piece(self, token: int) -> bytes | None:
        model, piece = self._processor, self._processor.id_to_piece(token)
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            return None
        if model.is_byte(token):
            byte = bytes([int(piece[3:5], 16)])  # <0x0A>
            # No text is encoded so, and unlike other spaces it would stay at the beginning of a text.
            return None if byte == b" " and not model.is_unknown(model.piece_to_id(SPACE_MARK)) else byte
        return piece.replace(SPACE_MARK, " ").encode()

    def _write(self, directory: Path) -> dict[str, object]:
        (directory / MODEL).write_bytes(self._model)
        return {"lossless": self.lossless, "sha256": hashlib.sha256(self._model).hexdigest()}


def load_tokenizer(directory: Path | str) -> Tokenizer:
    """The tokenizer saved in a directory. Raises UserError when it is missing or damaged."""
    from taxonomy.data import library_tokenizer

    path = Path(directory, DESCRIPTION)
    files = {"bytes": None, "library": library_tokenizer.MODEL, "sentencepiece": MODEL}
    try:
        description = json.loads(path.read_text())
        kind, end = description["kind"], description.get("document_end")
        if kind not in files:
            raise UserError(f"tokenizer: {path}: unknown kind '{kind}' (allowed: {', '.join(files)})")
        if kind == "bytes":
            return BytesTokenizer()
        model = Path(directory, files[kind]).read_bytes()
        if hashlib.sha256(model).hexdigest() != description["sha256"]:
            raise UserError(f"tokenizer: {Path(directory, files[kind])} is damaged: its hash is not the one in {DESCRIPTION}")
        if kind == "library":
            numbers = description["document_start"], end, description["vocab_size"]
            return library_tokenizer.LibraryTokenizer(model, *numbers)
        return SentencePieceTokenizer(model, description["lossless"], end)
    except OSError as error:
        raise UserError(f"tokenizer: {error.filename}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"tokenizer: {path} is damaged: {type(error).__name__}: {error}") from error


@component("bytes", kind="tokenizer", paper="")
@dataclasses.dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8 and a token that begins a document."""

    def train(self, documents: Iterable[str]) -> Tokenizer:
        return BytesTokenizer()

    def sample_bytes(self) -> int:
        return 0

    def fingerprint(self) -> str:
        return digest("bytes")


@component("sentencepiece_file", kind="tokenizer", paper="Kudo & Richardson 2018, arXiv:1808.06226")
@dataclasses.dataclass(frozen=True)
class SentencePieceFile:
    """An existing SentencePiece model file; whether texts survive unchanged is up to the model."""

    path: str

    def train(self, documents: Iterable[str]) -> Tokenizer:
        try:
            return SentencePieceTokenizer(self._read(), lossless=False)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"tokenizer.path: '{self.path}' is not a usable SentencePiece model: {error}") from error

    def sample_bytes(self) -> int:
        return 0

    def fingerprint(self) -> str:
        return digest("sentencepiece_file", hashlib.sha256(self._read()).hexdigest())

    def _read(self) -> bytes:
        try:
            return Path(self.path).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer.path: '{self.path}': {error.strerror}") from error


@component("sentencepiece", kind="tokenizer", paper="Kudo & Richardson 2018, arXiv:1808.06226")
@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """Subword pieces learned from the corpus, with bytes for what is rare; every text survives unchanged.

    Learned from an even sample of `sample_megabytes` of the corpus. None takes what is learned in seconds: 10 for bpe, and
    1 for unigram, which is some twenty times slower a byte.
    """

    vocab: int = 4096
    kind: Literal["bpe", "unigram"] = "bpe"
    sample_megabytes: float | None = None

    def check(self) -> None:
        if not 260 <= self.vocab <= 2**20:
            raise ValueError(f"vocab={self.vocab}: allowed are 260 (every byte and a few pieces) to {2**20}")
        if self.sample_megabytes is not None and self.sample_megabytes <= 0:
            raise ValueError(f"sample_megabytes={self.sample_megabytes} must be above 0")

    def train(self, documents: Iterable[str]) -> Tokenizer:
        """Deterministic. Raises UserError when the corpus is empty or supports no vocabulary of this size."""
        lines = [line for block in sample_blocks(documents, self.sample_bytes()) for line in block.split("\n") if line]
        if not lines:
            raise UserError("tokenizer: there is no text to learn from")
        return SentencePieceTokenizer(_train(lines, self.vocab, self.kind), lossless=True)

    def fingerprint(self) -> str:
        return digest("sentencepiece", self.vocab, self.kind, self.sample_bytes())

    def sample_bytes(self) -> int:
        """How much text it is learned from."""
        return int((self.sample_megabytes or {"bpe": 10, "unigram": 1}[self.kind]) * 1e6)


def _train(lines: list[str], vocab: int, kind: str) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab,
            model_type=kind,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n"],
            unk_id=0,
            bos_id=1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=2**30,
            # The unigram trainer's result depends on the number of threads, so it is not left to the machine.
            num_threads=4,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(str(error), vocab, lines) from error
    return model.getvalue()


def _explained(message: str, vocab: int, lines: list[str]) -> UserError:
    if most := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        megabytes = sum(map(len, lines)) / 1e6
        return UserError(
            f"tokenizer.vocab: {vocab} is more than the {megabytes:.1f} MB of text learned from support; the largest possible is "
            f"{most[1]}"
        )
    if least := re.search(r"Vocabulary size is smaller than required_chars. \d+ vs (\d+)", message):
        return UserError(
            f"tokenizer.vocab: {vocab} is too small for the characters of this corpus; the smallest possible is {least[1]}"
        )
    return UserError(f"tokenizer.vocab: {vocab}: SentencePiece could not learn it: {message}")


def sample_blocks(documents: Iterable[str], size: int, block: int = 4096) -> list[str]:
    """An even sample of about `size` bytes of a corpus, in blocks of lines, each block once.

    A block is kept while its hash is below a threshold, which halves whenever the sample has outgrown three times its size; so
    the sample is the same in whatever order the documents come.
    """
    kept: dict[int, bytes] = {}
    threshold, held = 2**64, 0
    for document in documents:
        for text in _blocks(document, block):
            data = text.encode()
            key = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
            if key >= threshold or key in kept:
                continue
            kept[key] = data
            held += len(data)
            while held > 3 * size and threshold > 1:
                threshold //= 2
                kept = {key: data for key, data in kept.items() if key < threshold}
                held = sum(map(len, kept.values()))
    sample, total = [], 0
    for _, data in sorted(kept.items()):
        sample.append(data.decode())
        total += len(data)
        if total >= size:
            break
    return sample


def _blocks(document: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(document):
        line_end = document.find("\n", start + size)
        # A line longer than a few blocks is cut anywhere.
        stop = start + size if line_end < 0 or line_end > start + 4 * size else line_end + 1
        yield document[start:stop]
        start = stop
