"""BART: the table against transformers."""

from . import common

SMALL = dict(
    vocab_size=97,
    d_model=24,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=3,
    decoder_attention_heads=3,
    encoder_ffn_dim=40,
    decoder_ffn_dim=40,
    max_position_embeddings=80,
    pad_token_id=None,
    eos_token_id=None,
    forced_eos_token_id=None,
)
CASES = {
    "equal stacks": SMALL,
    "stacks that differ, a scaled table": {
        **SMALL,
        "vocab_size": 101,
        "encoder_layers": 3,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 36,
        "decoder_ffn_dim": 52,
        "scale_embedding": True,
        "activation_function": "relu",
    },
    "no dropout but in attention": {
        **SMALL,
        "d_model": 40,
        "encoder_attention_heads": 5,
        "decoder_attention_heads": 5,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "dropout": 0.0,
        "attention_dropout": 0.125,
        "activation_function": "gelu_new",
    },
}
pair = common.pairs("bart", CASES, "Seq2SeqLM")


class TestBart(common.Parity):
    pass
