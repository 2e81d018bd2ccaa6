import itertools
import threading
import time

import numpy as np
import pytest

from taxonomy.data.pipeline import Windows, evaluation_batches, split_window
from taxonomy.errors import UserError

START = 7
CONTEXT = 16


def corpus(length, seed=0, dtype=np.uint16):
    """Tokens 8.. with document starts at random places; token `i` tells its own place where it is no start."""
    tokens = np.arange(8, 8 + length).astype(dtype)
    tokens[np.random.default_rng(seed).random(length) < 0.15] = START
    tokens[0] = START
    return tokens


def share(host, hosts):
    """The rows of one of several processes that have as many each, one behind the other."""
    return lambda count: range(host * count // hosts, (host + 1) * count // hosts)


def slow_positions_and_segments(row):
    """The definition, one token at a time."""
    positions, segments, position, segment = [], [], 0, 1
    for place, token in enumerate(row):
        if place and token == START:
            position, segment = 0, segment + 1
        positions.append(position)
        segments.append(segment)
        position += 1
    return positions, segments


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_positions_and_segments_follow_their_definition(seed):
    window_BW = corpus(40 * 17, seed).reshape(40, 17)
    batch = split_window(window_BW, START)
    for row in range(40):
        positions, segments = slow_positions_and_segments(window_BW[row, :-1])
        assert batch["positions"][row].tolist() == positions
        assert batch["segments"][row].tolist() == segments
    np.testing.assert_array_equal(batch["tokens"], window_BW[:, :-1])
    np.testing.assert_array_equal(batch["targets"], window_BW[:, 1:])
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    assert all(array.flags.c_contiguous for array in batch.values())


def test_positions_and_segments_by_hand():
    batch = split_window(np.array([[5, 5, START, 5, START, START, 5, 9]]), START)
    assert batch["positions"].tolist() == [[0, 1, 0, 1, 0, 0, 1]]
    assert batch["segments"].tolist() == [[1, 1, 2, 2, 3, 4, 4]]
    assert split_window(np.array([[START, 5, 9]]), START)["segments"].tolist() == [[1, 1]]


def test_an_epoch_predicts_every_token_after_the_first_once():
    tokens = np.arange(8, 8 + CONTEXT * 13 + 1, dtype=np.uint16)
    windows = Windows(tokens, CONTEXT, seed=0, document_start=START)
    assert len(windows) == 13
    for epoch in range(3):
        batch = windows.batch(epoch * 13, 13)
        assert sorted(batch["targets"].ravel().tolist()) == tokens[1:].tolist()


def test_a_last_part_that_fills_no_window_is_left_out():
    windows = Windows(corpus(CONTEXT * 4), CONTEXT, seed=0, document_start=START)
    assert len(windows) == 3
    assert windows.batch(0, 3)["targets"].max() <= 8 + CONTEXT * 3


def test_epochs_and_seeds_are_shuffled_differently():
    tokens = corpus(CONTEXT * 40 + 1)
    order = {
        (seed, epoch): Windows(tokens, CONTEXT, seed, START).batch(epoch * 40, 40)["tokens"].tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    in_order = split_window(tokens[np.arange(40)[:, None] * CONTEXT + np.arange(CONTEXT + 1)], START)["tokens"].tolist()
    assert all(rows != in_order for rows in order.values())
    assert all(one != other for one, other in itertools.combinations(order.values(), 2))
    assert all(sorted(rows) == sorted(in_order) for rows in order.values())


def test_a_batch_depends_on_seed_and_index_alone():
    tokens = corpus(CONTEXT * 11 + 5)
    one, two = (Windows(tokens, CONTEXT, 3, START) for _ in range(2))
    one.batch(0, 100)
    same(one.batch(37, 6), two.batch(37, 6))
    parts = [two.batch(37, 2), two.batch(39, 3), two.batch(42, 1)]
    same(one.batch(37, 6), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 6, 12])
def test_hosts_together_have_the_batch_of_one(hosts):
    windows = Windows(corpus(CONTEXT * 9 + 1), CONTEXT, seed=5, document_start=START)
    whole = windows.batch(24, 12)
    parts = [windows.batch(24, 12, share(host, hosts)) for host in range(hosts)]
    assert all(array.shape == (12 // hosts, CONTEXT) for part in parts for array in part.values())
    same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_rows_may_lie_apart():
    windows = Windows(corpus(CONTEXT * 9 + 1), CONTEXT, seed=5, document_start=START)
    whole = windows.batch(24, 12)
    same({name: array[[1, 4, 5]] for name, array in whole.items()}, windows.batch(24, 12, lambda count: (1, 4, 5)))


@pytest.mark.parametrize("arguments", [(-1, 4), (0, 0)])
def test_an_impossible_batch_is_an_error(arguments):
    windows = Windows(corpus(100), CONTEXT, 0, START)
    with pytest.raises(ValueError, match="batch"):
        windows.batch(*arguments)


@pytest.mark.parametrize(("length", "windows"), [(CONTEXT + 1, 1), (CONTEXT, 0), (1, 0), (0, 0)])
def test_a_split_shorter_than_one_window_is_an_error(length, windows):
    tokens = np.zeros(length, np.uint16)
    if windows:
        assert len(Windows(tokens, CONTEXT, 0, START)) == windows
    else:
        with pytest.raises(UserError, match=rf"train split has {length} tokens, fewer than one window of 17 \(context=16"):
            Windows(tokens, CONTEXT, 0, START)


def test_ids_beyond_16_bits_and_mapped_files(tmp_path):
    tokens = corpus(200, dtype=np.uint32) + np.uint32(100_000)
    tokens.tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint32, mode="r")
    same(Windows(mapped, CONTEXT, 0, START).batch(0, 8), Windows(tokens, CONTEXT, 0, START).batch(0, 8))
    assert Windows(mapped, CONTEXT, 0, START).batch(0, 8)["tokens"].min() >= 100_000


class TestStream:
    schedule = ((0, 4), (4, 8), (12, 2), (20, 4), (24, 4), (28, 2))

    def windows(self):
        return Windows(corpus(CONTEXT * 9 + 1), CONTEXT, seed=1, document_start=START)

    def threads(self):
        return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]

    @pytest.mark.parametrize("prefetch", [0, 1, 2, 10])
    @pytest.mark.parametrize(("host", "hosts"), [(0, 1), (1, 2)])
    def test_it_gives_the_batches_of_the_schedule(self, prefetch, host, hosts):
        windows = self.windows()
        batches = list(windows.stream(self.schedule, share(host, hosts), prefetch))
        assert len(batches) == len(self.schedule)
        for batch, (first, count) in zip(batches, self.schedule, strict=True):
            same(batch, windows.batch(first, count, share(host, hosts)))
        assert not self.threads()

    def test_it_works_ahead_on_an_endless_schedule_and_closes(self):
        asked = []

        def schedule():
            for step in itertools.count():
                asked.append(step)
                yield step * 2, 2

        stream = self.windows().stream(schedule(), prefetch=3)
        assert asked == []
        next(stream)
        deadline = time.monotonic() + 20
        while len(asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert asked == [0, 1, 2, 3]
        assert len(self.threads()) == 1
        stream.close()
        assert not self.threads()
        assert len(asked) == 4

    def test_closing_drops_what_was_not_begun(self):
        asked = []

        def schedule():
            for step in range(30):
                asked.append(step)
                time.sleep(0.02)
                yield step * 2, 2

        stream = self.windows().stream(schedule(), prefetch=30)
        next(stream)
        stream.close()
        assert len(asked) < 15

    def test_what_is_raised_reaches_the_consumer_in_its_turn(self):
        def broken():
            yield 0, 2
            yield 2, 2
            raise OSError("disk gone")

        for schedule, error in ((broken(), OSError), ([(0, 2), (2, 2), (4, 0)], ValueError)):
            stream = self.windows().stream(schedule, prefetch=4)
            assert next(stream)["tokens"].shape[1] == CONTEXT
            assert next(stream)["tokens"].shape[1] == CONTEXT
            with pytest.raises(error):
                next(stream)
            assert not self.threads()


class TestEvaluation:
    @pytest.mark.parametrize("length", [2, CONTEXT, CONTEXT + 1, CONTEXT * 4 + 1, CONTEXT * 4 + 2, CONTEXT * 9 + 7])
    def test_every_token_after_the_first_is_a_target_once(self, length):
        tokens = corpus(length)
        batches = list(evaluation_batches(tokens, CONTEXT, 4, START))
        assert len(batches) == -(-(length - 1) // (4 * CONTEXT))
        inputs, targets = [], []
        for batch in batches:
            assert all(array.shape == (4, CONTEXT) for array in batch.values())
            real = batch["weights"] == 1
            inputs += batch["tokens"][real].tolist()
            targets += batch["targets"][real].tolist()
            assert np.all(batch["weights"][~real] == 0)
            for name in ("tokens", "targets", "positions", "segments"):
                assert batch[name].dtype == np.int32
                assert not batch[name][~real].any()
            assert np.all(batch["segments"][real] > 0)
            assert batch["weights"].dtype == np.float32
        assert inputs == tokens[:-1].tolist()
        assert targets == tokens[1:].tolist()

    def test_windows_are_those_of_training(self):
        tokens = corpus(CONTEXT * 8 + 1)
        batches = list(evaluation_batches(tokens, CONTEXT, 4, START))
        shuffled = Windows(tokens, CONTEXT, 0, START).batch(0, 8)
        for name in shuffled:
            rows = np.concatenate([batch[name] for batch in batches])
            assert sorted(rows.tolist()) == sorted(shuffled[name].tolist())
        assert all(batch["weights"].all() for batch in batches)

    @pytest.mark.parametrize("length", [0, 1])
    def test_nothing_to_predict_is_an_error(self, length):
        with pytest.raises(UserError, match=f"{length} tokens; at least 2"):
            next(evaluation_batches(np.zeros(length, np.uint16), CONTEXT, 4, START))
