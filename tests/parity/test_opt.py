"""OPT: the table against transformers."""

from . import common

CASES = {
    "norms before": dict(
        vocab_size=97,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        pad_token_id=None,
        word_embed_proj_dim=24,
    ),
    "350M: norms after, a narrower table": dict(
        vocab_size=97,
        hidden_size=32,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        pad_token_id=None,
        word_embed_proj_dim=12,
        do_layer_norm_before=False,
        dropout=0.0,
    ),
    "Galactica: no biases, norms without parameters, gelu": dict(
        vocab_size=101,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        pad_token_id=None,
        word_embed_proj_dim=24,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        activation_function="gelu",
        attention_dropout=0.125,
    ),
    "no last norm, untied": dict(
        vocab_size=97,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        pad_token_id=None,
        word_embed_proj_dim=24,
        _remove_final_layer_norm=True,
        tie_word_embeddings=False,
    ),
    "norms before, a wider table": dict(
        vocab_size=97,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=80,
        pad_token_id=None,
        word_embed_proj_dim=40,
    ),
}
pair = common.pairs("opt", CASES)


class TestOPT(common.Parity):
    pass
