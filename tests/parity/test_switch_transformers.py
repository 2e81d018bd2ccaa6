"""Switch Transformers: the table against transformers."""

from . import common

SHAPE = dict(vocab_size=97, d_model=24, d_kv=8, d_ff=40, num_heads=3, num_layers=2, num_decoder_layers=2)
CASES = {
    "every second layer, room for all": dict(
        **SHAPE, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=4, expert_capacity=72
    ),
    "dropped tokens, all layers, biases, head of its own": dict(
        SHAPE,
        d_kv=6,
        num_sparse_encoder_layers=2,
        num_sparse_decoder_layers=2,
        num_experts=3,
        expert_capacity=8,
        router_bias=True,
        router_jitter_noise=0.0,
        router_z_loss_coef=0.0,
        dense_act_fn="gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-2,
    ),
    "dropped tokens, every third layer, no experts in the decoder": dict(
        SHAPE,
        num_layers=4,
        num_decoder_layers=1,
        num_sparse_encoder_layers=2,
        encoder_sparse_step=3,
        num_sparse_decoder_layers=0,
        decoder_sparse_step=0,
        num_experts=4,
        expert_capacity=5,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
    ),
}


def change(theirs):
    """Scores are not scaled, so queries are. A new model with a head of its own has three tables; one that makes sense has one."""
    theirs.encoder.embed_tokens = theirs.decoder.embed_tokens = theirs.shared
    for name, value in theirs.named_parameters():
        if name.endswith(".q.weight"):
            value.mul_(theirs.config.d_kv**-0.5)


pair = common.pairs("switch_transformers", CASES, "Seq2SeqLM", change)


class TestSwitchTransformers(common.SparseParity):
    def test_loads(self, pair):
        super().test_loads(pair)
        tight = pair.theirs.config.expert_capacity < common.INPUTS / pair.theirs.config.num_experts
        assert (common.figures(pair)["dropped_fraction"] > 0.05) == tight
