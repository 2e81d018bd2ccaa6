"""Qwen 3: queries and keys are normed; heads have a width of their own; maybe windows in the later layers."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer

_DEFAULTS = rotary.Defaults(vocab=151936, d_model=4096, context=32768, layers=32, heads=32, groups=32, head_dim=128, d_ff=22016)


def section(fields: Fields) -> dict:
    bias = fields.read("attention_bias", bool, False)
    return rotary.section(fields, _DEFAULTS, kinds=rotary.late_windows, bias=bias, qk_norm="norm")


def hf_config(model: spec.Model) -> dict:
    _, attention, _ = first_layer(model)
    values = dict(**rotary.hf_config(model, _DEFAULTS), **rotary.late_windows_fields(model))
    return dict(**values, attention_bias=attention["bias"])


FAMILY = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
)
