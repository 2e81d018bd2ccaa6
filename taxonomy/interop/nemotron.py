"""Nemotron: LayerNorm whose gain is stored as its offset from one, squared ReLU, half of every head rotated."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer

_DEFAULTS = rotary.Defaults(
    vocab=256000,
    d_model=6144,
    context=4096,
    layers=32,
    heads=48,
    d_ff=24576,
    eps=1e-5,
    eps_name="norm_eps",
    words=PLAIN,
    act="relu2",
    std=0.0134,
    partial=0.5,
)


def section(fields: Fields) -> dict:
    bias, mlp_bias = (fields.read(name, bool, False) for name in ("attention_bias", "mlp_bias"))
    norm = "layernorm(unit_offset=True)"
    return rotary.section(fields, _DEFAULTS, norm=norm, bias=bias, mlp_bias=mlp_bias)


def hf_config(model: spec.Model) -> dict:
    _, attention, mlp = first_layer(model)
    return dict(**rotary.hf_config(model, _DEFAULTS), attention_bias=attention["bias"], mlp_bias=mlp.get("bias"))


FAMILY = Family(
    model_type="nemotron",
    architecture="NemotronForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.MODEL_ENDS,
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.heads(tensors.SELF_ATTENTION),
        *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
        *tensors.mlp(f"{tensors.MODEL_LAYER}.mlp", up="up_proj", down="down_proj"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
)
