"""Qwen 2: LLaMA with biases on queries, keys and values, and maybe windows in the later layers."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import Family, Fields

_DEFAULTS = rotary.Defaults(vocab=151936, d_model=4096, context=32768, layers=32, heads=32, d_ff=22016)


def section(fields: Fields) -> dict:
    return rotary.section(fields, _DEFAULTS, kinds=rotary.late_windows, bias=True, out_bias=False)


def hf_config(model: spec.Model) -> dict:
    return dict(**rotary.hf_config(model, _DEFAULTS), **rotary.late_windows_fields(model))


FAMILY = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    fixed={"use_mrope": False},
)
