"""ELECTRA, both nets: the table against transformers."""

from . import common

SMALL = dict(
    vocab_size=97,
    embedding_size=16,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=80,
    pad_token_id=None,
)
GENERATOR = {**SMALL, "auto": "MaskedLM"}
CASES = {
    "discriminator": SMALL,
    "discriminator of one width, relu, one part": {
        **SMALL,
        "vocab_size": 101,
        "embedding_size": 24,
        "hidden_act": "relu",
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-2,
    },
    "generator": GENERATOR,
    "generator, wide vectors, tanh": {
        **GENERATOR,
        "embedding_size": 40,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "num_hidden_layers": 1,
    },
}
pair = common.pairs("electra", CASES, "PreTraining")


class TestElectra(common.EncoderParity):
    pass
