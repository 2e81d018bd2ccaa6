"""Longformer with and without global tokens: the table against transformers, which pads rows to a multiple of the window."""

from . import common

SMALL = dict(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=98,
    type_vocab_size=1,
    attention_window=8,
)
CASES = {
    "no global tokens": SMALL,
    "global tokens": {**SMALL, "prefix": 0.06, "type_vocab_size": 2},
    "windows of several widths": {**SMALL, "num_hidden_layers": 3, "attention_window": [4, 10, 4], "prefix": 0.03},
    "three classes": {**SMALL, "auto": "SequenceClassification", "num_labels": 3, "prefix": 0.06, "attention_window": 16},
}
pair = common.pairs("longformer", CASES, "MaskedLM")


class TestLongformer(common.EncoderParity):
    pass
