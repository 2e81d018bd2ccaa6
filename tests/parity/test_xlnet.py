"""XLNet: the table against transformers, with one stream and with two."""

import dataclasses

import numpy as np
import pytest

from . import common

SMALL = dict(vocab_size=97, d_model=24, d_inner=40, n_layer=2, n_head=3, pad_token_id=None)
CASES = {
    "as published": SMALL,
    "more heads, tanh, no dropout": {
        **SMALL,
        "vocab_size": 101,
        "d_model": 40,
        "n_head": 4,
        "ff_activation": "gelu_new",
        "layer_norm_eps": 1e-2,
        "dropout": 0.0,
        "mem_len": None,
    },
    "one layer, relu": {**SMALL, "n_layer": 1, "n_head": 2, "ff_activation": "relu"},
}
pair = common.pairs("xlnet", CASES)


class TestXLNet(common.EncoderParity):
    pass


@pytest.fixture
def in_order(pair):
    """Half of the tokens are predicted in a random order, the others only read."""
    generator = np.random.default_rng(0)
    half = pair.tokens.shape[1] // 2
    order = [generator.permutation(np.append(np.zeros(half, int), np.arange(1, 1 + half))) for _ in pair.tokens]
    return dataclasses.replace(pair, others={**pair.others, "order": np.stack(order)})


class TestTwoStreams:
    def test_logits(self, in_order):
        common.check_logits(in_order)

    def test_loss_and_gradients(self, in_order):
        common.check_loss_and_gradients(in_order)
