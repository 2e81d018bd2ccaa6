"""BioGPT: the table against transformers."""

from . import common

CASES = {
    "scaled table": dict(
        pad_token_id=None,
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
    ),
    "untied, own width": dict(
        pad_token_id=None,
        vocab_size=101,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=5,
        max_position_embeddings=80,
        tie_word_embeddings=False,
        scale_embedding=False,
        hidden_act="relu",
    ),
    "other rates": dict(
        pad_token_id=None,
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        hidden_dropout_prob=0.25,
        attention_probs_dropout_prob=0.0,
    ),
}
pair = common.pairs("biogpt", CASES)


class TestBioGPT(common.Parity):
    pass
