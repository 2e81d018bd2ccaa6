"""GPT-Neo: the table against transformers."""

from . import common

CASES = {
    "global and local in turn": dict(
        vocab_size=97,
        max_position_embeddings=80,
        hidden_size=24,
        num_layers=3,
        attention_types=[[["global", "local"], 1], [["global"], 1]],
        num_heads=3,
        window_size=7,
    ),
    "all local, own width, untied": dict(
        vocab_size=101,
        max_position_embeddings=72,
        hidden_size=40,
        num_layers=2,
        attention_types=[[["local"], 2]],
        num_heads=5,
        window_size=16,
        intermediate_size=56,
        activation_function="relu",
        layer_norm_epsilon=1e-2,
        tie_word_embeddings=False,
        embed_dropout=0.25,
    ),
    "all global": dict(
        vocab_size=64,
        max_position_embeddings=80,
        hidden_size=16,
        num_layers=2,
        attention_types=[[["global"], 2]],
        num_heads=1,
        attention_dropout=0.125,
    ),
}
pair = common.pairs("gpt_neo", CASES)


class TestGPTNeo(common.Parity):
    pass
