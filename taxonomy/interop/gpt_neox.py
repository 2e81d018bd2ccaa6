"""GPT-NeoX and Pythia: attention and feed-forward side by side with a norm each; part of every head is rotated."""

from taxonomy import spec
from taxonomy.interop import decoders, tensors
from taxonomy.interop.decoders import dropout
from taxonomy.interop.family import Family, Fields, first_layer, need, say
from taxonomy.interop.rope import rope, rope_parameters


def section(fields: Fields) -> dict:
    sizes = decoders.sizes(fields, 50432, 6144, 2048)
    heads = decoders.plain_heads(fields, sizes["d_model"], 64)
    rate = dropout(fields, "hidden_dropout")
    parallel = fields.read("use_parallel_residual", bool, True)
    return dict(
        **sizes,
        norm=say("layernorm", eps=fields.read("layer_norm_eps", float, 1e-5)),
        position=rope(fields, sizes["context"], heads.width, partial=0.25, names=("rotary_emb_base", "rotary_pct")),
        embedding=say("table", dropout=rate),
        attention=heads.say(bias=fields.read("attention_bias", bool, True), dropout=dropout(fields, "attention_dropout")),
        mlp=decoders.mlp(fields, 24576, "gelu", bias=True),
        blocks=dict(block=say("parallel(attention, mlp, shared_norm=False)" if parallel else "pre(attention, mlp)", dropout=rate)),
        decoder=f"{fields.read('num_hidden_layers', int, 44)}*block",
        **decoders.ends(fields),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, mlp = first_layer(model)
    return dict(
        **decoders.common_fields(model),
        **decoders.mlp_fields(mlp),
        num_attention_heads=need(attention, "heads"),
        layer_norm_eps=need(block["norm"], "eps"),
        rope_parameters={"partial_rotary_factor": 1.0, **rope_parameters(attention)},
        attention_bias=attention["bias"],
        attention_dropout=attention["dropout"],
        hidden_dropout=block["dropout"],
        use_parallel_residual=block.name == "parallel",
    )


HIDDEN = "gpt_neox.layers.{layer}"
FAMILY = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"),
        *tensors.pre_norms(HIDDEN),
        *tensors.fused_heads(f"{HIDDEN}.attention.query_key_value"),
        *tensors.out(f"{HIDDEN}.attention.dense"),
        *tensors.mlp(f"{HIDDEN}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
    ),
    buffers=(
        f"{HIDDEN}.attention.bias",
        f"{HIDDEN}.attention.masked_bias",
        f"{HIDDEN}.attention.rotary_emb.inv_freq",
        "gpt_neox.rotary_emb.inv_freq",
    ),
    tied={"embed_out.weight": "gpt_neox.embed_in.weight"},
    inert=("classifier_dropout", "is_decoder"),
    # Names of rates in the first release.
    fixed={"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},
)
