"""Middles moved to the end, read back by somebody who knows the format alone."""

import collections
import dataclasses

import numpy as np
import pytest

from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.objectives.fill_in_the_middle import FillInTheMiddle
from taxonomy.objectives.objective import Lengths, Specials

from .common import END, SPECIALS, START, VOCAB, make, same, text, within

PRE, SUF, MID = VOCAB - 1, VOCAB - 2, VOCAB - 3
STARTS = (0, 30, 31, 77, 150)


def documents(sequence, segments):
    """The texts of a sequence, by their segments; the last target belongs to the last."""
    numbers = [*segments, segments[-1]]
    return [[t for t, n in zip(sequence, numbers, strict=True) if n == number] for number in dict.fromkeys(numbers)]


def read_back(piece, order, first=PRE, second=SUF, third=MID):
    """What a document was, in which order it came (None when it was left alone), and the lengths of its parts."""
    begun = [piece[0]] if piece[0] == START else []
    body = piece[len(begun) :]
    if third not in body:
        return piece, None, None
    to_fill = body.index(third)
    head, middle = body[:to_fill], body[to_fill + 1 :]
    if head[0] == first and head[1] != second:
        cut = head.index(second)
        before, after, kind = head[1:cut], head[cut + 1 :], "psm"
    elif head[0] == first and order == "joint":
        # Prefix and middle stand together: the text rises, so what is smaller than the suffix is all of them.
        before, after, kind = [], head[2:], "spm"
    elif head[0] == first:
        before, after, kind = [], head[2:], "psm"
    else:
        cut = head.index(first)
        before, after, kind = head[cut + 1 :], head[1:cut], "spm"
    return begun + before + middle + after, kind, (len(before), len(middle), len(after))


@pytest.mark.parametrize("order", ["joint", "plain"])
@pytest.mark.parametrize("end", [END, None])
def test_documents_can_be_read_back(order, end):
    objective = FillInTheMiddle(rate=0.8, spm_order=order)
    specials, lengths = dataclasses.replace(SPECIALS, end=end), Lengths(200)
    tokens = text(201, STARTS)
    kinds = collections.Counter()
    for seed in range(300):
        example = objective.example(tokens, np.random.default_rng(seed), specials, lengths)
        sequence = [*example.tokens.tolist(), int(example.targets[-1])]
        assert sequence[1:] == example.targets.tolist() and example.weights.all()
        assert len(sequence) in (201, 200, 199, 198, 197)
        pieces = documents(sequence, example.segments.tolist())
        assert example.positions.tolist() == [p for piece in pieces for p in range(len(piece))][: len(sequence) - 1]
        original = []
        for number, piece in enumerate(pieces):
            ending = SPECIALS.end if end is not None else START
            if MID in piece and (end is not None or number == len(pieces) - 1):
                assert piece.pop() == ending
            document, kind, _ = read_back(piece, order)
            kinds[kind] += bool(len(document) > 1)
            original += document
        assert original == tokens[: len(original)].tolist()
        assert len(original) >= 201 - 4 * 5
    total = kinds.total()
    assert within(kinds[None], total, 0.2)
    # A prefix that happens to be empty makes the two orders look alike.
    assert abs(kinds["psm"] - 0.4 * total) < 0.06 * total and abs(kinds["spm"] - 0.4 * total) < 0.06 * total


def test_every_two_places_are_equally_likely():
    objective, generator = FillInTheMiddle(rate=1.0, spm=0.0), np.random.default_rng(0)
    drawn = collections.Counter()
    for _ in range(4000):
        example = objective.example(text(4), generator, SPECIALS, Lengths(64))
        sequence = [*example.tokens.tolist(), int(example.targets[-1])]
        assert sequence.pop() == END
        suffix, middle = sequence.index(SUF), sequence.index(MID)
        drawn[suffix - 1, len(sequence) - middle - 1] += 1
    # Two cuts in 5 places: 10 ways for two that differ, 5 for twice the same, each half as likely.
    assert len(drawn) == 15
    expected = {(a, b): 4000 * (2 if b else 1) / 25 for a, b in drawn}
    assert sum((n - expected[k]) ** 2 / expected[k] for k, n in drawn.items()) < 42  # chi-squared, 14 degrees, p = 1e-4


def test_a_rate_of_zero_is_next_token_prediction():
    tokens = text(97, (20, 21, 50))
    same(make("fill_in_the_middle(rate=0.0)", tokens), make("causal", tokens))


def test_a_middle_is_never_cut_off():
    for seed in range(100):
        example = make("fill_in_the_middle(rate=1.0)", text(97), seed=seed)
        assert len(example.tokens) == 96 and example.targets[-1] == END


class TestCharacters:
    """Bytes as the ids, so that a character may be several tokens."""

    tokenizer = BytesTokenizer()
    specials = Specials(start=256, vocab=300, used=257, decode=tokenizer.decode, encode=tokenizer.encode)
    text = "naïve Ωmega — 漢字 and more"

    def example(self, tokens, seed):
        objective = FillInTheMiddle(rate=1.0, spm=0.0)
        return objective.example(tokens, np.random.default_rng(seed), self.specials, Lengths(96))

    def parts(self, example):
        sequence = np.append(example.tokens, example.targets[-1]).tolist()
        pre, suf, mid = (sequence.index(mark) for mark in (299, 298, 297))
        assert sequence[-1] == 256
        return sequence[pre + 1 : suf], sequence[mid + 1 : -1], sequence[suf + 1 : mid]

    def test_parts_are_whole_characters(self):
        tokens = self.tokenizer.encode(self.text)
        cuts = set()
        for seed in range(300):
            parts = [bytes(part).decode() for part in self.parts(self.example(tokens, seed))]
            assert "".join(parts) == self.text
            cuts.add(len(parts[0]))
        assert len(cuts) > 0.8 * len(self.text)

    def test_a_text_that_decoding_would_change_is_cut_between_tokens(self):
        tokens = self.tokenizer.encode("Ω" + self.text)[1:]
        for seed in range(50):
            assert [t for part in self.parts(self.example(tokens, seed)) for t in part] == tokens.tolist()

    def test_an_encoding_that_grows_is_made_to_fit(self):
        """A tokenizer of pairs of characters: a cut inside a pair makes one token two."""

        def encode(string):
            ids = [ord(c) for c in string]
            return np.array([1000 + 128 * a + b for a, b in zip(ids[::2], ids[1::2], strict=False)] + ids[len(ids) // 2 * 2 :])

        def decode(ids):
            return "".join(chr(i) if i < 1000 else chr((i - 1000) // 128) + chr((i - 1000) % 128) for i in ids)

        specials = Specials(start=0, vocab=20000, used=19000, decode=decode, encode=encode)
        string = "".join(chr(97 + i % 26) for i in range(130))
        grown = 0
        for seed in range(60):
            example = FillInTheMiddle(rate=1.0, spm=0.0).example(encode(string), np.random.default_rng(seed), specials, Lengths(64))
            sequence = [*example.tokens.tolist(), int(example.targets[-1])]
            assert len(sequence) <= 65 and sequence.pop() == 0
            suf, mid = sequence.index(19998), sequence.index(19997)
            parts = [decode(part) for part in (sequence[1:suf], sequence[mid + 1 :], sequence[suf + 1 : mid])]
            assert string.startswith("".join(parts)) and len("".join(parts)) >= 116
            grown += len(parts[0]) % 2
        assert 10 < grown < 50
