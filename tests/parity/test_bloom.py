"""BLOOM: the table against transformers."""

from . import common

CASES = {
    "a power of two of heads": dict(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, seq_length=80),
    "six heads, untied": dict(
        vocab_size=101, hidden_size=48, n_layer=3, n_head=6, seq_length=72, tie_word_embeddings=False, layer_norm_epsilon=1e-2
    ),
    "one head": dict(vocab_size=64, hidden_size=16, n_layer=2, n_head=1, hidden_dropout=0.125, attention_dropout=0.25),
}
pair = common.pairs("bloom", CASES)


class TestBloom(common.Parity):
    pass
