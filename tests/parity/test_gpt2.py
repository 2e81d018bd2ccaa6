"""GPT-2: the table against transformers."""

from . import common

CASES = {
    "tied": dict(vocab_size=97, n_positions=80, n_embd=24, n_layer=3, n_head=3),
    "untied, own width, unscaled": dict(
        vocab_size=101,
        n_positions=80,
        n_embd=40,
        n_layer=2,
        n_head=5,
        n_inner=56,
        activation_function="relu",
        layer_norm_epsilon=1e-2,
        scale_attn_weights=False,
        tie_word_embeddings=False,
        attn_pdrop=0.0,
        resid_pdrop=0.25,
        embd_pdrop=0.0,
    ),
}
pair = common.pairs("gpt2", CASES)


class TestGPT2(common.Parity):
    pass
