"""Mistral: LLaMA whose layers all look back a window of tokens."""

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer

_DEFAULTS = rotary.Defaults(vocab=32000, d_model=4096, context=131072, layers=32, heads=32, groups=8, d_ff=14336)


def section(fields: Fields) -> dict:
    return rotary.section(fields, _DEFAULTS, keys=decoders.mask(fields, 4096))


def hf_config(model: spec.Model) -> dict:
    _, attention, _ = first_layer(model)
    return dict(**rotary.hf_config(model, _DEFAULTS), sliding_window=attention["mask"].get("window"))


FAMILY = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
)
