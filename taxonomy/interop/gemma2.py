"""Gemma 2: Gemma with norms around every sublayer, capped scores and logits, and a window in every other layer."""

import functools

from taxonomy import spec
from taxonomy.interop import decoders, gemma, rotary, tensors
from taxonomy.interop.family import Family, Fields

DEFAULTS = rotary.Defaults(
    vocab=256000,
    d_model=2304,
    context=8192,
    layers=26,
    heads=8,
    groups=4,
    head_dim=256,
    d_ff=9216,
    act="geglu(approximate=True)",
    act_name="hidden_activation",
    tied=True,
)


def common(fields: Fields, logit_cap: float | None) -> dict:
    """What this and the next Gemma tell `rotary.section`."""
    return dict(
        norm=gemma.NORM,
        keys=gemma.SCALED,
        wiring="sandwich({}, mlp)",
        head=dict(softcap=fields.or_null("final_logit_softcapping", float, logit_cap)),
        scale=f"{fields.read('query_pre_attn_scalar', int, 256)}**-0.5",
        bias=fields.read("attention_bias", bool, False),
    )


def section(fields: Fields) -> dict:
    kinds = functools.partial(rotary.early_windows, period=2)
    softcap = fields.or_null("attn_logit_softcapping", float, 50.0)
    return rotary.section(fields, DEFAULTS, kinds=kinds, softcap=softcap, **common(fields, 30.0))


def common_fields(model: spec.Model) -> dict:
    """The inverse of `common` and of all else that is the same in the next Gemma."""
    attentions = rotary.attentions(model)
    scale, windows = attentions[0]["scale"], decoders.windowed_fields(attentions)
    if windows["sliding_window"] is None:
        # Null is refused even where no layer would use it.
        del windows["sliding_window"]
    return dict(
        **rotary.hf_config(model, DEFAULTS),
        **windows,
        query_pre_attn_scalar=round(scale**-2) if scale else 0,
        final_logit_softcapping=model.head.get("softcap"),
        attention_bias=attentions[0]["bias"],
    )


def hf_config(model: spec.Model) -> dict:
    return dict(**common_fields(model), attn_logit_softcapping=rotary.attentions(model)[0]["softcap"])


ROWS = (
    *tensors.MODEL_ENDS,
    *tensors.norm(f"{tensors.MODEL_LAYER}.input_layernorm", f"{tensors.LAYER}/attention_norm"),
    *tensors.norm(f"{tensors.MODEL_LAYER}.post_attention_layernorm", f"{tensors.LAYER}/attention_post_norm"),
    *tensors.norm(f"{tensors.MODEL_LAYER}.pre_feedforward_layernorm", f"{tensors.LAYER}/mlp_norm"),
    *tensors.norm(f"{tensors.MODEL_LAYER}.post_feedforward_layernorm", f"{tensors.LAYER}/mlp_post_norm"),
    *tensors.heads(tensors.SELF_ATTENTION),
    *tensors.qk_norm(tensors.SELF_ATTENTION),
    *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
    *tensors.gated_mlp(f"{tensors.MODEL_LAYER}.mlp"),
)

FAMILY = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=ROWS,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=("cache_implementation",),
    fixed={"use_bidirectional_attention": False, "hidden_act": "gelu_pytorch_tanh"},
)
