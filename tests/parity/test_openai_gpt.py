"""The first GPT: the table against transformers."""

from . import common

CASES = {
    "tied": dict(vocab_size=97, n_positions=80, n_embd=24, n_layer=2, n_head=3),
    "untied, relu": dict(
        vocab_size=101,
        n_positions=72,
        n_embd=40,
        n_layer=2,
        n_head=5,
        afn="relu",
        layer_norm_epsilon=1e-2,
        tie_word_embeddings=False,
        attn_pdrop=0.0,
        embd_pdrop=0.25,
    ),
    "one head, swish": dict(vocab_size=64, n_positions=80, n_embd=16, n_layer=3, n_head=1, afn="swish", resid_pdrop=0.0),
}
pair = common.pairs("openai-gpt", CASES)


class TestOpenAIGPT(common.Parity):
    pass
