"""Tokenizers of the `tokenizers` library: the tokenizer.json that many published models come with."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from taxonomy.data.storage import digest
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import UserError
from taxonomy.registry import component

MODEL = "model.json"


class LibraryTokenizer(Tokenizer):
    """A tokenizer.json. Whether texts survive unchanged is up to it."""

    kind = "library"

    def __init__(
        self, model: bytes, document_start: int | None = None, document_end: int | None = None, vocab_size: int | None = None
    ):
        """`document_start` None: what the tokenizer itself puts before a text. Raises ValueError for a file that cannot be used."""
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(model)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(str(error)) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._model = model
        self._specials = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        before = [i for i in self._tokenizer.encode("").ids if i in self._specials]
        if document_start is None:
            document_start = before[0] if before else document_end
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.vocab_size = largest if vocab_size is None else min(vocab_size, largest)
        if document_start is None or not 0 <= document_start < self.vocab_size:
            raise ValueError("no token begins a document")
        self.document_start = document_start
        self.document_end = document_start if document_end is None else document_end
        self.begins = document_start in before
        self._specials |= {self.document_start, self.document_end}
        self.fingerprint = digest("library", hashlib.sha256(model).hexdigest(), document_start, self.vocab_size)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text, such as "<s>"."""
        return self._tokenizer.token_to_id(token)

    def definition(self) -> str:
        """The tokenizer.json, without padding and truncation."""
        return self._tokenizer.to_str()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(found.ids, np.int32) for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _special(self, token: int) -> bool:
        return token in self._specials

    def _write(self, directory: Path) -> dict[str, object]:
        (directory / MODEL).write_bytes(self._model)
        return {"sha256": hashlib.sha256(self._model).hexdigest()}


@component("tokenizer_file", kind="tokenizer", paper="")
@dataclasses.dataclass(frozen=True)
class TokenizerFile:
    """An existing tokenizer.json of the `tokenizers` library; `start` begins a document, where it adds no such token itself."""

    path: str
    start: str | None = None

    def sample_bytes(self) -> int:
        return 0

    def train(self, documents: Iterable[str]) -> Tokenizer:
        model = self._read()
        try:
            if self.start is None:
                return LibraryTokenizer(model)
            start = LibraryTokenizer(model, document_start=0).token_id(self.start)
            if start is None:
                raise UserError(f"tokenizer.start: '{self.path}' has no token '{self.start}'")
            return LibraryTokenizer(model, start)
        except ValueError as error:
            raise UserError(f"tokenizer.path: '{self.path}' is not a usable tokenizer.json: {error}") from error

    def fingerprint(self) -> str:
        return digest("tokenizer_file", hashlib.sha256(self._read()).hexdigest(), self.start)

    def _read(self) -> bytes:
        try:
            return Path(self.path).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer.path: '{self.path}': {error.strerror}") from error
