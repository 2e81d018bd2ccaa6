"""StarCoder 2: groups of heads, LayerNorm, GELU, biases, and maybe a window."""

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer, say

_DEFAULTS = rotary.Defaults(
    vocab=49152,
    d_model=3072,
    context=4096,
    layers=30,
    heads=24,
    groups=2,
    d_ff=12288,
    eps=1e-5,
    eps_name="norm_epsilon",
    words=PLAIN,
    act="gelu_tanh",
    tied=True,
    std=0.018042,
)


def section(fields: Fields) -> dict:
    bias = fields.read("use_bias", bool, True)
    return rotary.section(
        fields,
        _DEFAULTS,
        norm="layernorm",
        wiring=say("pre({}, mlp)", dropout=decoders.dropout(fields, "residual_dropout")),
        mlp_bias=bias,
        keys=dict(
            **decoders.mask(fields),
            embedding=say("table", dropout=decoders.dropout(fields, "embedding_dropout")),
        ),
        bias=bias,
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, _ = first_layer(model)
    return dict(
        **rotary.hf_config(model, _DEFAULTS),
        use_bias=attention["bias"],
        sliding_window=attention["mask"].get("window"),
        residual_dropout=block["dropout"],
        embedding_dropout=model.embedding.get("dropout"),
    )


FAMILY = Family(
    model_type="starcoder2",
    architecture="Starcoder2ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.MODEL_ENDS,
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.heads(tensors.SELF_ATTENTION),
        *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
        *tensors.mlp(f"{tensors.MODEL_LAYER}.mlp", up="c_fc", down="c_proj"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # The released configs repeat fields of its predecessor.
    inert=("activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "layer_norm_epsilon"),
    fixed={"mlp_type": "default", "norm_type": "layer_norm", "scale_attn_weights": True},
)
