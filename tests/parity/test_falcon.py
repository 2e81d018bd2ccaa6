"""Falcon: the table against transformers."""

from . import common

CASES = {
    "7B: one head of keys, one norm": dict(
        vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=80
    ),
    "40B: groups, two norms": dict(
        vocab_size=101,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        new_decoder_architecture=True,
        max_position_embeddings=72,
        bias=True,
        tie_word_embeddings=False,
        ffn_hidden_size=56,
        layer_norm_epsilon=1e-2,
    ),
    "11B: groups, one norm": dict(
        vocab_size=64,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_kv_heads=2,
        new_decoder_architecture=True,
        num_ln_in_parallel_attn=1,
        max_position_embeddings=80,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
    ),
    "sequential, as many heads of keys": dict(
        vocab_size=131,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=False,
        parallel_attn=False,
        max_position_embeddings=80,
        bias=True,
        activation="relu",
    ),
    # Their eager attention adds the biases a second time, with the mask. Four heads: theirs are rounded to bfloat16.
    "RW: alibi": dict(
        vocab_size=83,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=False,
        parallel_attn=False,
        alibi=True,
        bias=True,
        max_position_embeddings=80,
        attention="sdpa",
    ),
}
pair = common.pairs("falcon", CASES)


class TestFalcon(common.Parity):
    pass
