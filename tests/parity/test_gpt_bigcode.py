"""GPTBigCode: the table against transformers."""

from . import common

CASES = {
    "one head of keys": dict(vocab_size=97, n_positions=80, n_embd=24, n_layer=2, n_head=3),
    "as many heads of keys, untied, own width": dict(
        vocab_size=101,
        n_positions=72,
        n_embd=40,
        n_layer=2,
        n_head=5,
        n_inner=56,
        multi_query=False,
        activation_function="gelu",
        layer_norm_epsilon=1e-2,
        tie_word_embeddings=False,
        resid_pdrop=0.25,
        embd_pdrop=0.0,
    ),
    "unscaled": dict(vocab_size=64, n_positions=80, n_embd=32, n_layer=2, n_head=4, scale_attn_weights=False, attn_pdrop=0.0),
}
pair = common.pairs("gpt_bigcode", CASES)


class TestGPTBigCode(common.Parity):
    pass
