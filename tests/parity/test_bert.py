"""BERT with either head: the table against transformers."""

from . import common

SMALL = dict(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=80,
    pad_token_id=None,
)
CLASSES = {**SMALL, "auto": "SequenceClassification"}
CASES = {
    "two parts": SMALL,
    "one part, tanh, no dropout": {
        **SMALL,
        "vocab_size": 101,
        "num_hidden_layers": 3,
        "type_vocab_size": 1,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-2,
        "hidden_dropout_prob": 0.0,
    },
    "three parts, relu": {
        **SMALL,
        "hidden_size": 40,
        "num_attention_heads": 5,
        "type_vocab_size": 3,
        "hidden_act": "relu",
        "attention_probs_dropout_prob": 0.0,
    },
    "two classes": CLASSES,
    "five classes, silu": {**CLASSES, "num_labels": 5, "hidden_act": "silu", "num_hidden_layers": 1},
    "one number": {**CLASSES, "num_labels": 1, "hidden_size": 32, "num_attention_heads": 2, "type_vocab_size": 1},
    "three numbers": {**CLASSES, "num_labels": 3, "problem_type": "regression", "num_hidden_layers": 1},
}
pair = common.pairs("bert", CASES, "MaskedLM")


class TestBert(common.EncoderParity):
    pass
