"""Command R7B and Command A: Command R with windows and rotary positions in most layers, and neither in every fourth."""

import dataclasses

from taxonomy import spec
from taxonomy.interop import cohere, decoders, rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer, need

_DEFAULTS = dataclasses.replace(cohere.DEFAULTS, theta=10000.0)


def _kinds(fields: Fields, shape: rotary.Shape) -> rotary.Kinds:
    period = fields.read("sliding_window_pattern", int, fields.read("_sliding_window_pattern", int, 4))
    kinds, variants = rotary.early_windows(fields, shape, period)
    variants["full"]["position"] = "none"
    return kinds, variants


def section(fields: Fields) -> dict:
    return rotary.section(fields, _DEFAULTS, kinds=_kinds, **cohere.common(fields))


def hf_config(model: spec.Model) -> dict:
    _, attention, _ = first_layer(model)
    return dict(
        **rotary.hf_config(model, _DEFAULTS),
        **decoders.windowed_fields(rotary.attentions(model)),
        attention_bias=attention["bias"],
        logit_scale=need(model.head, "scale"),
    )


FAMILY = Family(
    model_type="cohere2",
    architecture="Cohere2ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=cohere.ROWS,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=("cache_implementation",),
    # Fields of the released checkpoints for what is always so.
    fixed={
        "layer_switch": 4,
        "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rotary_pct": 1.0,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": True,
        "use_qk_norm": False,
    },
)
