"""Gemma: the table is scaled, gains are stored as their offsets from one, and the feed-forward is gated by a GELU."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import GATED, Family, Fields, first_layer

# Its "gelu" always meant the tanh approximation.
_WORDS = dict(GATED, gelu="geglu(approximate=True)")
_DEFAULTS = rotary.Defaults(
    vocab=256000,
    d_model=3072,
    context=8192,
    layers=28,
    heads=16,
    groups=16,
    head_dim=256,
    d_ff=24576,
    words=_WORDS,
    act="geglu(approximate=True)",
    tied=True,
)
NORM = "rmsnorm(unit_offset=True)"
SCALED = dict(embedding="table(scale=d_model**0.5)")


def section(fields: Fields) -> dict:
    bias = fields.read("attention_bias", bool, False)
    return rotary.section(fields, _DEFAULTS, norm=NORM, keys=SCALED, bias=bias)


def hf_config(model: spec.Model) -> dict:
    _, attention, _ = first_layer(model)
    return dict(**rotary.hf_config(model, _DEFAULTS), attention_bias=attention["bias"])


FAMILY = Family(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    fixed={"use_bidirectional_attention": False, "hidden_activation": "gelu_pytorch_tanh"},
)
