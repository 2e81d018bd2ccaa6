"""Text and tokens that go on from others."""

from collections.abc import Sequence

from taxonomy.data.tokenizers import Tokenizer


def text_after(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int], before: str | None = None) -> str:
    """The text of tokens that continue a prompt: alone, some tokenizers would drop the space that they begin with.

    `before`: the prompt's text, where that is known.
    """
    tokens = [int(token) for token in tokens]
    before, whole = tokenizer.decode(prompt) if before is None else before, tokenizer.decode([*prompt, *tokens])
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(tokens)


def continuation(tokenizer: Tokenizer, before: Sequence[int], text: str) -> list[int]:
    """Tokens whose text behind others is this one, if there are such: some tokenizers begin what is encoded alone with a space."""
    for anchor in ("", "\n", "="):
        head, whole = tokenizer.encode(anchor).tolist(), tokenizer.encode(anchor + text).tolist()
        if whole[: len(head)] == head and text_after(tokenizer, before, whole[len(head) :]) == text:
            return whole[len(head) :]
    no_text = tokenizer.document_start, tokenizer.document_end
    return [token for token in tokenizer.encode(text).tolist() if token not in no_text]
