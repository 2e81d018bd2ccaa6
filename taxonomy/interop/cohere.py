"""Command R: attention and feed-forward side by side after one norm without bias, neighbouring rotary pairs, scaled logits."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer, need

DEFAULTS = rotary.Defaults(
    vocab=256000,
    d_model=8192,
    context=8192,
    layers=40,
    heads=64,
    d_ff=22528,
    eps=1e-5,
    eps_name="layer_norm_eps",
    theta=500000.0,
    tied=True,
)


def common(fields: Fields) -> dict:
    """What this and the next generation tell `rotary.section`."""
    return dict(
        norm="layernorm(bias=False)",
        rotary=dict(interleaved=True),
        wiring="parallel({}, mlp)",
        head=dict(scale=fields.read("logit_scale", float, 0.0625)),
        bias=fields.read("attention_bias", bool, False),
    )


def section(fields: Fields) -> dict:
    normed = fields.read("use_qk_norm", bool, False)
    qk_norm = "norm" if normed else None
    return rotary.section(fields, DEFAULTS, qk_norm=qk_norm, qk_norm_per_head=normed, **common(fields))


def hf_config(model: spec.Model) -> dict:
    _, attention, _ = first_layer(model)
    return dict(
        **rotary.hf_config(model, DEFAULTS),
        attention_bias=attention["bias"],
        use_qk_norm=attention["qk_norm"] is not None,
        logit_scale=need(model.head, "scale"),
    )


ROWS = (*tensors.GATED_DECODER, *tensors.shared_norm(f"{tensors.MODEL_LAYER}.input_layernorm"))
FAMILY = Family(
    model_type="cohere",
    architecture="CohereForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=ROWS,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
)
