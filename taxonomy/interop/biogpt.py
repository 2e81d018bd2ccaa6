"""BioGPT: learned positions begin with the third row, and the table is scaled."""

from taxonomy import spec
from taxonomy.interop import decoders, opt, tensors
from taxonomy.interop.family import Family, Fields, first_layer, need, say
from taxonomy.interop.rows import Row


def section(fields: Fields) -> dict:
    sizes = decoders.sizes(fields, 42384, 1024, 1024)
    heads = decoders.plain_heads(fields, sizes["d_model"], 16)
    rate = decoders.dropout(fields, "hidden_dropout_prob", 0.1)
    scaled = fields.read("scale_embedding", bool, True)
    return dict(
        **sizes,
        norm="layernorm(eps=1e-5)",
        position="learned(length=context + 2, offset=2)",
        embedding=say("table", scale="d_model**0.5" if scaled else None, dropout=rate),
        attention=heads.say(bias=True, dropout=decoders.dropout(fields, "attention_probs_dropout_prob", 0.1)),
        mlp=decoders.mlp(fields, 4096, "gelu", bias=True),
        blocks=dict(block=say("pre(attention, mlp)", dropout=rate)),
        decoder=f"{fields.read('num_hidden_layers', int, 24)}*block",
        **decoders.ends(fields, tied=True),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, mlp = first_layer(model)
    return dict(
        **decoders.common_fields(model),
        **decoders.mlp_fields(mlp),
        num_attention_heads=need(attention, "heads"),
        scale_embedding=model.embedding.get("scale") != 1.0,
        hidden_dropout_prob=block["dropout"],
        attention_probs_dropout_prob=attention["dropout"],
    )


FAMILY = Family(
    model_type="biogpt",
    architecture="BioGptForCausalLM",
    prefix="biogpt.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("biogpt.embed_tokens", "biogpt.layer_norm", "output_projection"),
        Row("biogpt.embed_positions.weight", "embedding/positions/table"),
        *opt.layer_rows("biogpt.layers.{layer}"),
    ),
    tied={"output_projection.weight": "biogpt.embed_tokens.weight"},
    # The norms have an epsilon of their own, whatever this says.
    inert=("layer_norm_eps",),
    fixed={"layerdrop": 0.0, "activation_dropout": 0.0},
)
