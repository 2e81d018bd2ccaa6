"""Helium: LLaMA whose rotary pairs are neighbours; no bias on the output of attention."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import Family, Fields, Inexpressible, first_layer, need

_DEFAULTS = rotary.Defaults(
    vocab=48000, d_model=2560, context=4096, layers=24, heads=20, groups=20, head_dim=128, d_ff=7040, eps=1e-8, theta=100000.0
)


def section(fields: Fields) -> dict:
    bias, mlp_bias = (fields.read(name, bool, False) for name in ("attention_bias", "mlp_bias"))
    return rotary.section(fields, _DEFAULTS, rotary=dict(interleaved=True), bias=bias, out_bias=False, mlp_bias=mlp_bias)


def hf_config(model: spec.Model) -> dict:
    _, attention, mlp = first_layer(model)
    if need(attention, "heads") * attention["head_dim"] != model.d_model:
        raise Inexpressible(f"heads of {attention['head_dim']} are not equal parts of d_model={model.d_model}")
    return dict(**rotary.hf_config(model, _DEFAULTS), attention_bias=attention["bias"], mlp_bias=mlp.get("bias"))


FAMILY = Family(
    model_type="helium",
    architecture="HeliumForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
)
