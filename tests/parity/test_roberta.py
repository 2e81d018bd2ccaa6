"""RoBERTa with either head: the table against transformers."""

from . import common

SMALL = dict(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=82,
    type_vocab_size=1,
)
CASES = {
    "positions from the third row": SMALL,
    "two parts, tanh": {**SMALL, "vocab_size": 101, "type_vocab_size": 2, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
    "positions from the second row": {
        **SMALL,
        "pad_token_id": 0,
        "hidden_size": 40,
        "num_attention_heads": 5,
        "hidden_dropout_prob": 0.0,
    },
    "three classes": {**SMALL, "auto": "SequenceClassification", "num_labels": 3},
}
pair = common.pairs("roberta", CASES, "MaskedLM")


class TestRoberta(common.EncoderParity):
    pass
