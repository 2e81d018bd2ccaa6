"""Batches of examples: those of the pipeline for next-token prediction, and functions of (seed, index) for every objective."""

import itertools

import numpy as np
import pytest

from taxonomy import registry
from taxonomy.data.examples import Examples, arrange, beginning, evaluation_examples, specials
from taxonomy.data.pipeline import Windows, evaluation_batches
from taxonomy.data.tokenizers import BytesTokenizer, SentencePiece
from taxonomy.errors import UserError
from taxonomy.objectives.objective import Lengths, Specials

END, START, SEPARATOR, USED, VOCAB = 5, 7, 6, 40000, 41000
SPECIALS = Specials(start=START, vocab=VOCAB, used=USED, end=END, separator=SEPARATOR, sentence_ends=(9, 19, 29))
STACK, PAIR = Lengths(32), Lengths(24, 32)
CASES = {
    "causal": STACK,
    "prefix_lm": STACK,
    "span_corruption": PAIR,
    "denoisers": PAIR,
    "masked_lm": STACK,
    "text_infilling": PAIR,
    "permutation_lm": STACK,
    "blank_infilling(two_dimensional=True)": STACK,
    "fill_in_the_middle": STACK,
    "pairs": PAIR,
    "pairs(packed=False)": PAIR,
    "random_pivot": PAIR,
    "mixture(causal, mode(span_corruption, token='D'), weights=(1, 2))": STACK,
}


def corpus(length, seed=0, rate=0.1):
    """Tokens 8.. that tell their own place, with documents of at least three tokens that each have a separator."""
    tokens = np.arange(8, 8 + length).astype(np.uint16)
    starts = np.flatnonzero(np.random.default_rng(seed).random(length) < rate)
    starts = [0, *(s for s, before in zip(starts, [0, *starts], strict=False) if s - before > 3)]
    for start in starts:
        tokens[start : start + 3] = (START, tokens[start + 1], SEPARATOR)[: length - start]
    return tokens


def create(sentence):
    return registry.create("objective", sentence, "objective")


def examples(sentence, tokens=None, seed=3):
    return Examples(corpus(2000) if tokens is None else tokens, create(sentence), SPECIALS, CASES[sentence], seed)


def share(host, hosts):
    """The rows of one of several processes that have as many each, one behind the other."""
    return lambda count: range(host * count // hosts, (host + 1) * count // hosts)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(("length", "context", "seed"), [(2000, 32, 0), (2000, 32, 5), (65, 32, 0), (33, 32, 1), (999, 16, 2)])
def test_next_token_prediction_is_that_of_the_pipeline(length, context, seed):
    tokens = corpus(length)
    windows = Windows(tokens, context, seed, START)
    batches = Examples(tokens, create("causal"), SPECIALS, Lengths(context), seed)
    assert len(batches) == len(windows)
    for first, count, host, hosts in ((0, 8, 0, 1), (100, 6, 1, 2), (3 * len(windows), 9, 2, 3)):
        expected, batch = (one.batch(first, count, share(host, hosts)) for one in (windows, batches))
        weights = batch.pop("weights")
        same(batch, expected)
        assert weights.dtype == np.float32 and weights.shape == batch["tokens"].shape and weights.all()
        assert all(array.flags.c_contiguous for array in batch.values())


@pytest.mark.parametrize("length", [2, 31, 32, 33, 34, 64, 65, 66, 1000])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_of_next_token_prediction_is_that_of_the_pipeline(length, batch_size):
    tokens = corpus(length)
    expected = list(evaluation_batches(tokens, 32, batch_size, START))
    batches = list(evaluation_examples(tokens, create("causal"), SPECIALS, STACK, batch_size))
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        same(one, other)


@pytest.mark.parametrize("sentence", CASES)
def test_a_batch_depends_on_seed_and_index_alone(sentence):
    one, two = examples(sentence), examples(sentence)
    one.batch(0, 7)
    whole = one.batch(40, 6)
    same(whole, two.batch(40, 6))
    parts = [two.batch(40, 2), two.batch(42, 3), two.batch(45, 1)]
    same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})
    for hosts in (1, 2, 3, 6):
        parts = [one.batch(40, 6, share(host, hosts)) for host in range(hosts)]
        same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})
    other = examples(sentence, seed=4).batch(40, 6)
    assert any(not np.array_equal(whole[name], other[name]) for name in whole)


def test_the_seed_is_that_of_the_objective_too():
    tokens = corpus(create("masked_lm").needs(STACK))
    rows = {examples("masked_lm", tokens, seed).batch(0, 1)["weights"].tobytes() for seed in range(10)}
    assert len(rows) > 5


@pytest.mark.parametrize("sentence", [s for s in CASES if "pairs" not in s and s != "causal"])
def test_every_epoch_draws_anew(sentence):
    batches = examples(sentence)
    epoch = len(batches)
    later = {int(batches._order[j]): j for j in range(epoch, 2 * epoch)}
    pairs = [(batches.batch(i, 1), batches.batch(later[int(batches._order[i])], 1)) for i in range(min(epoch, 8))]
    assert any(not np.array_equal(one[name], other[name]) for one, other in pairs for name in one)


@pytest.mark.parametrize("sentence", CASES)
def test_shapes_and_keys_never_change(sentence):
    lengths, objective = CASES[sentence], create(sentence)
    context, inputs = lengths.context, lengths.inputs
    shapes = {name: ((5, context), np.int32) for name in ("tokens", "targets", "positions", "segments")}
    shapes["weights"] = ((5, context), np.float32)
    if objective.coordinates == 2:
        shapes["positions"] = ((5, context, 2), np.int32)
    if inputs:
        shapes |= {name: ((5, inputs), np.int32) for name in ("inputs", "input_positions", "input_segments")}
    if "prefix" in objective.gives and not inputs:
        shapes["prefix"] = ((5, context), np.bool_)
    if "order" in objective.gives:
        shapes["order"] = ((5, context), np.int32)
    if "input_targets" in objective.gives:
        shapes |= {"input_targets": ((5, inputs), np.int32), "input_weights": ((5, inputs), np.float32)}
    if "part" in objective.gives:
        shapes["part"] = ((5,), np.int32)
    batches = examples(sentence)
    for first in range(0, 60, 5):
        batch = batches.batch(first, 5)
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == shapes
    for batch in evaluation_examples(corpus(700), objective, SPECIALS, lengths, 5):
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == shapes


@pytest.mark.parametrize("sentence", [s for s in CASES if s != "pairs"])
def test_rows_are_examples_padded_with_zeros(sentence):
    batches, lengths = examples(sentence), CASES[sentence]
    batch = batches.batch(10, 8)
    for row, index in enumerate(range(10, 18)):
        example = batches._example(index)
        size = len(example.tokens)
        for name, array in batch.items():
            if array.ndim > 1:
                used = len(example.inputs) if name.startswith("input") else size
                assert not array[row, used:].any(), name
                if (value := getattr(example, name, None)) is not None:
                    got = array[row, :used]
                    np.testing.assert_array_equal(got if got.ndim == value.ndim else got[:, 0], value, err_msg=name)
        assert (batch["segments"][row, :size] > 0).all()
        if example.positions is None:
            got = batch["positions"][row, :size]
            np.testing.assert_array_equal(got if got.ndim == 1 else got[:, 0], np.arange(size))
        if lengths.inputs:
            used = len(example.inputs)
            assert batch["input_segments"][row].tolist() == [1] * used + [0] * (lengths.inputs - used)
            assert batch["input_positions"][row, :used].tolist() == list(range(used))
        if "part" in batch:
            assert batch["part"][row] == example.part


@pytest.mark.parametrize("sentence", ["span_corruption", "masked_lm", "text_infilling", "prefix_lm"])
def test_an_epoch_uses_every_token(sentence):
    objective, lengths = create(sentence), CASES[sentence]
    stride = objective.needs(lengths) - objective.overlap
    tokens = np.arange(50, 50 + stride * 11 + objective.overlap).astype(np.uint16)
    tokens[::9] = 9
    batches = Examples(tokens, objective, SPECIALS, lengths, seed=0)
    assert len(batches) == 11
    batch = batches.batch(0, 11)
    seen = {int(t) for name in ("tokens", "targets", "inputs") if name in batch for t in batch[name].ravel()}
    assert set(tokens.tolist()) <= seen


def test_documents_are_taken_whole_in_an_order_of_their_own():
    tokens = corpus(2000)
    batches = examples("pairs(packed=False)", tokens)
    starts = np.flatnonzero(tokens == START)
    documents = [d for d in np.split(tokens, starts)[1:] if len(d) > 1]
    assert len(batches) == len(documents)
    for epoch in range(2):
        batch = batches.batch(epoch * len(documents), len(documents))
        assert sorted(batch["inputs"][:, 0].tolist()) == sorted(int(d[1]) for d in documents)
    assert batch["inputs"][:, 0].tolist() != sorted(batch["inputs"][:, 0].tolist())


@pytest.mark.parametrize("lengths", [PAIR, STACK], ids=["two stacks", "one stack"])
def test_short_documents_share_rows(lengths):
    """Each once an epoch, as it would be alone, in fewer rows than there are documents."""
    tokens, objective = corpus(2000), create("pairs")
    batches = Examples(tokens, objective, SPECIALS, lengths, seed=3)
    starts = np.flatnonzero(tokens == START)
    documents = [d for d in np.split(tokens, starts)[1:] if len(d) > 1]
    alone = arrange([objective.example(d, None, SPECIALS, lengths) for d in documents], objective, lengths)
    for made in (batches.batch(0, len(batches)), *[_joined(evaluation_examples(tokens, objective, SPECIALS, lengths, 4))]):
        rows, sides = len(made["tokens"]), ("", "input_")[: 1 + (lengths.inputs is not None)]
        assert rows < 0.7 * len(documents)
        found = []
        for row in range(rows):
            for segment in range(1, made["segments"][row].max() + 1):
                text = {}
                for side in sides:
                    kept = made[f"{side}segments"][row] == segment
                    names = [n for n in made if n.startswith("input") == bool(side) and n != f"{side}segments"]
                    text |= {name: tuple(made[name][row, kept].tolist()) for name in names}
                found.append(text)
            for side in sides:
                segments = made[f"{side}segments"][row]
                used = segments[segments > 0]
                assert (np.diff(used) >= 0).all() and not segments[len(used) :].any()
        expected = []
        for row in range(len(documents)):
            keeps = {n: alone["input_segments" if n.startswith("input") else "segments"][row] > 0 for n in alone}
            expected.append({n: tuple(a[row, keeps[n]].tolist()) for n, a in alone.items() if not n.endswith("segments")})
        order = sorted(expected[0])
        assert sorted([t[n] for n in order] for t in found) == sorted([t[n] for n in order] for t in expected)
    assert (made["segments"] > 0).mean() > 0.75


def _joined(batches):
    batches = list(batches)
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    kept = (joined["segments"] > 0).any(1)
    return {name: array[kept] for name, array in joined.items()}


def test_a_part_of_a_split_is_whole_documents():
    tokens = np.array([START, 9, SEPARATOR, 9, START, 9, SEPARATOR, 8, START, SEPARATOR])
    for limit, size in ((1, 4), (4, 4), (5, 4), (8, 8), (9, 8), (10, 10), (None, 10)):
        assert len(beginning(tokens, limit, create("pairs"), START)) == size, limit
    assert len(beginning(tokens, 5, create("masked_lm"), START)) == 5


def test_a_batch_can_have_empty_rows():
    objective = create("causal")
    example = objective.example(np.arange(10, 20), np.random.default_rng(0), SPECIALS, STACK)
    batch = arrange([example], objective, STACK, rows=3)
    assert batch["weights"].sum(1).tolist() == [9, 0, 0] and not batch["segments"][1:].any()
    with pytest.raises(ValueError, match=r"\w+: an example has 9, a row has room for 8"):
        arrange([example], objective, Lengths(8))


def test_a_stream_gives_the_batches_of_its_schedule():
    batches = examples("denoisers")
    schedule = ((0, 4), (4, 8), (12, 2))
    streamed = list(batches.stream(schedule, share(1, 2)))
    for batch, (first, count) in zip(streamed, schedule, strict=True):
        same(batch, batches.batch(first, count, share(1, 2)))
    endless = batches.stream((i * 2, 2) for i in itertools.count())
    next(endless)
    endless.close()


@pytest.mark.parametrize("arguments", [(-1, 4), (0, 0)])
def test_an_impossible_batch_is_an_error(arguments):
    with pytest.raises(ValueError, match="at least one sequence"):
        examples("causal").batch(*arguments)


def test_impossible_splits_and_vocabularies_are_errors():
    with pytest.raises(UserError, match=r"train split has 30 tokens, fewer than one example's 33 \(with Lengths\(context=32"):
        examples("causal", corpus(30))
    with pytest.raises(UserError, match="train split has 30 tokens, not a document"):
        examples("pairs", np.arange(50, 80))
    few = Specials(start=START, vocab=USED + 3, used=USED)
    with pytest.raises(UserError, match="but only 3 of a vocabulary"):
        Examples(corpus(2000), create("denoisers"), few, PAIR, 0)
    with pytest.raises(UserError, match="1 tokens; at least 2 are needed"):
        next(evaluation_examples(corpus(2)[:1], create("causal"), SPECIALS, STACK, 4))


class TestSpecials:
    def test_of_bytes(self):
        found = specials(BytesTokenizer(), 300, separator=9)
        assert (found.start, found.used, found.vocab, found.ending, found.separator) == (256, 257, 300, 256, 9)
        assert sorted(map(chr, found.sentence_ends)) == ["\n", "!", ".", "?"]
        assert found.word_starts.shape == (257,)
        assert {chr(i) for i in np.flatnonzero(found.word_starts)} == {*" \n\r\t\v\f", *map(chr, range(0x1C, 0x20))}
        assert found.decode(found.encode("Ω!")) == "Ω!"

    def test_of_learned_pieces(self, documents):
        tokenizer = SentencePiece(vocab=500).train(documents)
        found = specials(tokenizer, 600)
        assert found.word_starts.shape == (500,) and found.used == 500
        ids = tokenizer.encode("The end. Is it the end? Yes\nit is")
        text = [tokenizer.decode([*tokenizer.encode("a"), i])[1:] for i in ids]
        words = "".join("|" * bool(found.word_starts[i]) + t for i, t in zip(ids, text, strict=True))
        assert words == "The| end.| Is| it| the| end?| Yes|\nit| is"
        ends = "".join(t + "|" * (i in found.sentence_ends) for i, t in zip(ids, text, strict=True))
        assert ends == "The end.| Is it the end?| Yes\n|it is"
