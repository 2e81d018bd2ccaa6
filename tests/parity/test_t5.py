"""T5, T5 v1.1 and UL2: the table against transformers."""

from . import common
from .common import torch

CASES = {
    "one table": dict(vocab_size=97, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, n_positions=80),
    # Their own cache allows no decoder of more layers than the encoder.
    "fewer layers in the decoder, own width of heads, few buckets": dict(
        vocab_size=101,
        d_model=32,
        d_kv=6,
        d_ff=44,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=4,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
        layer_norm_epsilon=1e-2,
        dropout_rate=0.0,
    ),
    "gated, head of its own": dict(
        vocab_size=131,
        d_model=24,
        d_kv=10,
        d_ff=36,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "UL2: gated by a silu": dict(
        vocab_size=97,
        d_model=24,
        d_kv=6,
        d_ff=36,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-silu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
    ),
    "one table, but no scale": dict(
        vocab_size=97, d_model=24, d_kv=6, d_ff=36, num_layers=1, num_heads=2, feed_forward_proj="gelu", scale_decoder_outputs=False
    ),
}


def change(theirs):
    """Scores are not scaled, so queries are. A new model has one table in any case; one that is read with two keeps them."""
    for name, value in theirs.named_parameters():
        if name.endswith(".q.weight"):
            value.mul_(theirs.config.d_kv**-0.5)
    if theirs.config.is_gated_act:
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn_like(theirs.shared.weight) * theirs.config.d_model**-0.5)


pair = common.pairs("t5", CASES, "Seq2SeqLM", change)


class TestT5(common.Parity):
    pass
