"""Mixtures of datasets: how often each is drawn, that each goes through its epochs, one tokenizer, errors."""

import collections

import numpy as np
import pytest

from taxonomy import registry
from taxonomy.data.mixture import BLOCK, Mixed, apportioned, prepare_mixture
from taxonomy.data.prepare import prepare
from taxonomy.data.tokenizers import Bytes, SentencePiece
from taxonomy.errors import UserError


class Numbers:
    """A stream whose example i is the number i of its own."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def rows(self, indices):
        return {"tokens": np.array(indices, np.int32)[:, None]}


SHARES = np.array([0.7, 0.05, 0.25])


def mixed(seed=0):
    return Mixed([Numbers(1000), Numbers(50), Numbers(10**6)], SHARES, seed)


def test_every_part_goes_through_its_own_stream_as_often_as_its_share():
    """Across the border of two blocks, nothing is left out and nothing comes twice."""
    first, count = BLOCK - 6000, 12000
    batch = mixed().batch(first, count)
    for part, share in enumerate(SHARES):
        own = np.sort(batch["tokens"][batch["part"] == part, 0])
        np.testing.assert_array_equal(own, np.arange(own[0], own[0] + len(own)))
        # A hypergeometric draw is narrower than a binomial one.
        assert abs(len(own) - count * share) < 4 * np.sqrt(count * share * (1 - share))
    start = mixed().batch(0, 8)
    assert start["tokens"].max() < 8 and len(set(mixed().batch(0, 200)["part"][:100])) == 3
    assert mixed().epochs(1000) == pytest.approx([0.7, 1.0, 0.00025], rel=1e-3)


def test_an_example_follows_from_seed_and_index():
    whole = mixed().batch(96, 64)
    parts = [mixed().batch(96, 64, lambda count, host=host: range(16 * host, 16 * host + 16)) for host in range(4)]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    assert not np.array_equal(mixed(1).batch(96, 64)["part"], whole["part"])


def test_objectives_are_counted_inside_their_dataset():
    class Two(Numbers):
        def rows(self, indices):
            return super().rows(indices) | {"part": np.array(indices, np.int32) % 2}

    batch = Mixed([Two(10), Two(10)], np.array([0.5, 0.5]), 0, objectives=2).batch(0, 64)
    np.testing.assert_array_equal(batch["part"] % 2, batch["tokens"][:, 0] % 2)
    assert set(batch["part"] // 2) == {0, 1}


def test_seats_are_whole_and_near():
    assert apportioned(np.array([0.5, 0.3, 0.2]), 4).tolist() == [2, 1, 1]
    assert apportioned(np.array([3, 1]) / 4).tolist() == [3 * BLOCK // 4, BLOCK // 4]


@pytest.fixture
def corpora(tmp_path):
    """Two texts of unequal size with words of their own."""
    for name, words, lines in (("large", "alpha beta gamma delta", 4000), ("small", "omega psi chi phi", 400)):
        letters = np.random.default_rng(0).choice(words.split(), (lines, 6))
        (tmp_path / f"{name}.txt").write_text("\n".join(map(" ".join, letters)))
    text = "text(glob='{0}/{1}.txt', validation=0.2)"
    return [text.format(tmp_path, name) for name in ("large", "small")]


def source(sentence):
    return registry.create("source", sentence, "config.data.source")


def test_parts_are_prepared_apart_with_one_tokenizer(corpora, tmp_path):
    """And where nothing is learned, they are found where the part alone has been prepared."""
    lines = []
    prepared = prepare_mixture(
        source(f"mixture({', '.join(corpora)}, weights=(3, 1))"), Bytes(), tmp_path / "p", report=lines.append
    )
    assert [label[-12:-2] for label in prepared.labels] == [f"/{name}.txt"[-10:] for name in ("large", "small")]
    assert prepared.shares.tolist() == [0.75, 0.25]
    again = []
    for part, sentence in zip(prepared.parts, corpora, strict=True):
        alone = prepare(source(sentence), Bytes(), tmp_path / "p", report=again.append)
        assert alone.fingerprint == part.fingerprint and len(part.tokens("validation")) > 2
    assert lines and not again
    held_out = np.concatenate([part.tokens("validation") for part in prepared.parts])
    np.testing.assert_array_equal(prepared.tokens("validation"), held_out)


def test_a_tokenizer_is_learned_in_proportion(corpora, tmp_path):
    """Of a small sample of a mixture of equal weights, half is of the text that is a tenth of the whole."""
    seen = []

    class Spy(SentencePiece):
        def train(self, documents):
            seen.extend(documents)
            return super().train(iter(seen))

    recipe = Spy(300, sample_megabytes=0.01)
    prepared = prepare_mixture(source(f"mixture({', '.join(corpora)})"), recipe, tmp_path / "p", report=lambda line: None)
    counts = collections.Counter("small" if "omega" in text else "large" for text in seen for _ in text)
    assert 0.6 < counts["small"] / counts["large"] < 1.6, counts
    assert len({part.tokenizer.fingerprint for part in prepared.parts}) == 1


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("mixture()", "mixture needs the argument 'parts'"),
        ("mixture(stdlib, stdlib, weights=(1,))", "1 weights for 2 sources"),
        ("mixture(stdlib, weights=(-1,))", "must not be negative"),
        ("mixture(stdlib, stdlib, weights=(1, 1e-9))", "stdlib#2 has less than one in 65536 of the weight"),
        ("mixture(mixture(stdlib))", "a mixture in a mixture"),
        ("mixture(causal)", "unknown source 'causal'"),
    ],
)
def test_a_mistake_names_itself(sentence, said):
    with pytest.raises(UserError) as e:
        source(sentence)
    assert said in str(e.value)
