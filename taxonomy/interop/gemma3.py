"""Gemma 3: Gemma 2 with norms of queries and keys instead of caps, and other rotary positions in layers with a window."""

import dataclasses

from taxonomy import spec
from taxonomy.interop import gemma2, rotary, tensors
from taxonomy.interop.family import Family, Fields
from taxonomy.interop.rope import parameters, rope_parameters

_DEFAULTS = dataclasses.replace(gemma2.DEFAULTS, vocab=262208, context=131072)


def _positions(fields: Fields, shape: rotary.Shape) -> dict[str, str]:
    """The position of each kind of layer: nested in rope_parameters, or as in the first release."""
    nested, scaling = fields.inside("rope_parameters"), fields.inside("rope_scaling")
    full, local = nested.inside("full_attention"), nested.inside("sliding_attention")
    if scaling.values:
        full = Fields({**full.values, **scaling.values}, scaling.source)
    nested.finish()
    thetas = fields.read("rope_theta", float, 1000000.0), fields.read("rope_local_base_freq", float, 10000.0)
    full, local = (parameters(f, shape.context, shape.heads.width, theta) for f, theta in zip((full, local), thetas, strict=True))
    return dict(full=full, local=local)


def _kinds(fields: Fields, shape: rotary.Shape) -> rotary.Kinds:
    period = fields.read("sliding_window_pattern", int, fields.read("_sliding_window_pattern", int, 6))
    kinds, variants = rotary.early_windows(fields, shape, period)
    variants["local"]["position"] = _positions(fields, shape)["local"]
    return kinds, variants


def section(fields: Fields) -> dict:
    def position(fields: Fields, shape: rotary.Shape) -> str:
        return _positions(fields, shape)["full"]

    return rotary.section(fields, _DEFAULTS, rotary=position, kinds=_kinds, qk_norm="norm", **gemma2.common(fields, None))


def hf_config(model: spec.Model) -> dict:
    values = gemma2.common_fields(model)
    found = dict(zip(values["layer_types"], map(rope_parameters, rotary.attentions(model)), strict=True))
    return {**values, "rope_parameters": found}


FAMILY = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=gemma2.ROWS,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=("cache_implementation",),
    # A cap of scores is a field, but nothing uses it.
    fixed={"attn_logit_softcapping": None, "use_bidirectional_attention": False, "hidden_act": "gelu_pytorch_tanh"},
)
