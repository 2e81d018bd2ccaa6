"""OPT and Galactica: learned positions begin with the third row; norms after the sublayers and a narrower table at 350M."""

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop import decoders, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer, need, say, word
from taxonomy.interop.rows import Row


def section(fields: Fields) -> dict:
    sizes = decoders.sizes(fields, 50272, 768, 2048)
    heads = decoders.plain_heads(fields, sizes["d_model"], 12)
    before = fields.read("do_layer_norm_before", bool, True)
    bias = fields.read("enable_bias", bool, True)
    affine = fields.read("layer_norm_elementwise_affine", bool, True)
    width = fields.read("word_embed_proj_dim", int, sizes["d_model"])
    tied = fields.read("tie_word_embeddings", bool, True)
    if not tied and width != sizes["d_model"]:
        raise UserError(f"{fields.source}: word_embed_proj_dim={width} is only possible with tie_word_embeddings")
    removed = fields.read("_remove_final_layer_norm", bool, False)
    block = say("pre(attention, mlp)" if before else "post(attention, mlp)", dropout=decoders.dropout(fields, "dropout", 0.1))
    return dict(
        **sizes,
        norm="layernorm(eps=1e-5)" if affine else "layernorm(eps=1e-5, gain=False, bias=False)",
        position="learned(length=context + 2, offset=2)",
        embedding=say("table", width=width if width != sizes["d_model"] else None),
        attention=heads.say(bias=bias, dropout=decoders.dropout(fields, "attention_dropout")),
        mlp=say(fields.read("activation_function", PLAIN, "relu"), d_ff=fields.read("ffn_dim", int, 3072), bias=bias or None),
        blocks=dict(block=block),
        decoder=f"{fields.read('num_hidden_layers', int, 12)}*block",
        **({"final_norm": None} if before and removed else {}),
        head="tied" if tied else "untied",
        initializer=say("normal", std=fields.read("init_std", float, 0.02)),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, mlp = first_layer(model)
    values = decoders.common_fields(model)
    std = values.pop("initializer_range")
    return dict(
        **values,
        init_std=std,
        num_attention_heads=need(attention, "heads"),
        ffn_dim=need(mlp, "d_ff"),
        activation_function=word(PLAIN, mlp.name),
        enable_bias=attention["bias"],
        layer_norm_elementwise_affine=block["norm"].get("gain"),
        do_layer_norm_before=block.name == "pre",
        _remove_final_layer_norm=block.name == "pre" and model.final_norm is None,
        word_embed_proj_dim=model.embedding.get("width"),
        dropout=block["dropout"],
        attention_dropout=attention["dropout"],
    )


DECODER = "model.decoder"
HIDDEN = f"{DECODER}.layers.{{layer}}"


def layer_rows(layer: str) -> tensors.Rows:
    """The rows of a layer, which a later family took over."""
    return (
        *tensors.pre_norms(layer, "self_attn_layer_norm", "final_layer_norm"),
        *tensors.heads(f"{layer}.self_attn"),
        *tensors.out(f"{layer}.self_attn.out_proj"),
        *tensors.mlp(layer, up="fc1", down="fc2"),
    )


FAMILY = Family(
    model_type="opt",
    architecture="OPTForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends(f"{DECODER}.embed_tokens", f"{DECODER}.final_layer_norm"),
        Row(f"{DECODER}.embed_positions.weight", "embedding/positions/table"),
        Row(f"{DECODER}.project_in.weight", "embedding/project", "o i -> i o"),
        Row(f"{DECODER}.project_out.weight", "head/project", "o i -> i o"),
        *layer_rows(HIDDEN),
    ),
    tied={"lm_head.weight": f"{DECODER}.embed_tokens.weight"},
    # Rates that never applied to the released code.
    inert=("activation_dropout",),
    fixed={"layerdrop": 0.0, "learned_embeddings": True, "scale_embeddings": False},
)
