"""SmolLM 3: LLaMA in which some layers have no positions, and maybe some have windows."""

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer

_DEFAULTS = rotary.Defaults(
    vocab=128256, d_model=2048, context=32768, layers=36, heads=16, groups=4, d_ff=11008, theta=2000000.0, tied=True
)


def _kinds(fields: Fields, shape: rotary.Shape) -> rotary.Kinds:
    interval = fields.read("no_rope_layer_interval", int, 4)
    usual = ["nope" if (i + 1) % interval == 0 else "rope" for i in range(shape.layers)]
    positions = decoders.listed(fields, "no_rope_layers", {0: "nope", 1: "rope"}, usual)
    window = fields.read("sliding_window", int, None)
    if not fields.read("use_sliding_window", bool, False):
        window = None
    usual = ["full" if window is None or position == "rope" else "local" for position in positions]
    windows, variants = decoders.windowed(fields, usual, window)
    none = dict(position="none")
    variants |= {"nope": none, "local_nope": {**variants["local"], **none}}
    names = {("rope", "full"): "full", ("rope", "local"): "local", ("nope", "full"): "nope", ("nope", "local"): "local_nope"}
    return [names[pair] for pair in zip(positions, windows, strict=True)], variants


def section(fields: Fields) -> dict:
    bias, mlp_bias = (fields.read(name, bool, False) for name in ("attention_bias", "mlp_bias"))
    return rotary.section(fields, _DEFAULTS, kinds=_kinds, bias=bias, mlp_bias=mlp_bias)


def hf_config(model: spec.Model) -> dict:
    _, attention, mlp = first_layer(model)
    return dict(
        **rotary.hf_config(model, _DEFAULTS),
        **rotary.late_windows_fields(model),
        no_rope_layers=[int(attention["position"].name != "none") for attention in rotary.attentions(model)],
        attention_bias=attention["bias"],
        mlp_bias=mlp.get("bias"),
    )


FAMILY = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # What the library once wrote beside them.
    inert=("pretraining_tp", "max_window_layers"),
)
