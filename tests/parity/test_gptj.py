"""GPT-J: the table against transformers."""

from . import common

CASES = {
    "untied": dict(vocab_size=97, n_positions=80, n_embd=24, n_layer=3, n_head=3, rotary_dim=4),
    "tied, own width, whole heads rotated": dict(
        vocab_size=101,
        n_positions=80,
        n_embd=40,
        n_layer=2,
        n_head=5,
        n_inner=56,
        rotary_dim=8,
        activation_function="gelu",
        layer_norm_epsilon=1e-2,
        tie_word_embeddings=True,
        attn_pdrop=0.125,
    ),
}
pair = common.pairs("gptj", CASES)


class TestGPTJ(common.Parity):
    pass
