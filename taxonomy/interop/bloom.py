"""BLOOM: ALiBi, a norm after the table, and queries, keys and values of each head in turn."""

from taxonomy import spec
from taxonomy.interop import decoders, tensors
from taxonomy.interop.decoders import dropout
from taxonomy.interop.family import Family, Fields, first_layer, need, say


def section(fields: Fields) -> dict:
    return dict(
        vocab=fields.read("vocab_size", int, 250880),
        # Released under the name n_embed.
        d_model=fields.read("n_embed", int, fields.read("hidden_size", int, 64)),
        context=fields.read("seq_length", int, 2048),
        norm=say("layernorm", eps=fields.read("layer_norm_epsilon", float, 1e-5)),
        position="alibi",
        embedding="table(norm=norm)",
        attention=say(
            "mha",
            heads=fields.read("n_head", int, fields.read("num_attention_heads", int, 8)),
            bias=True,
            dropout=dropout(fields, "attention_dropout"),
        ),
        mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
        blocks=dict(block=say("pre(attention, mlp)", dropout=dropout(fields, "hidden_dropout"))),
        decoder=f"{fields.read('n_layer', int, fields.read('num_hidden_layers', int, 2))}*block",
        **decoders.ends(fields, tied=True),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, _ = first_layer(model)
    values = decoders.common_fields(model)
    return dict(
        n_layer=values.pop("num_hidden_layers"),
        seq_length=values.pop("max_position_embeddings"),
        n_head=need(attention, "heads"),
        layer_norm_epsilon=need(block["norm"], "eps"),
        hidden_dropout=block["dropout"],
        attention_dropout=attention["dropout"],
        **values,
    )


HIDDEN = "transformer.h.{layer}"
FAMILY = Family(
    model_type="bloom",
    architecture="BloomForCausalLM",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("transformer.word_embeddings", "transformer.ln_f"),
        *tensors.norm("transformer.word_embeddings_layernorm", "embedding/table_norm"),
        *tensors.pre_norms(HIDDEN),
        *tensors.fused_heads(f"{HIDDEN}.self_attention.query_key_value"),
        *tensors.out(f"{HIDDEN}.self_attention.dense"),
        *tensors.mlp(f"{HIDDEN}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
    ),
    tied={"lm_head.weight": "transformer.word_embeddings.weight"},
    # How the same function was computed in training.
    inert=(
        "pretraining_tp",
        "slow_but_exact",
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "unk_token_id",
    ),
    fixed={"apply_residual_connection_post_layernorm": False},
)
