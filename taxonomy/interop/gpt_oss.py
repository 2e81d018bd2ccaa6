"""gpt-oss: experts with clamped gates, windows in every second layer, and a sink in every head."""

from collections.abc import Sequence

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer, need, say
from taxonomy.interop.rope import rope
from taxonomy.interop.rows import Row

_DEFAULTS = rotary.Defaults(
    vocab=201088, d_model=2880, context=131072, layers=36, heads=64, groups=8, head_dim=64, d_ff=2880, eps=1e-5, theta=150000.0
)
_WINDOW = 128
_ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters")


def _position(fields: Fields, shape: rotary.Shape) -> str:
    if not any(fields.values.get(name) for name in _ROPE_FIELDS):
        scaling = say("yarn", factor=32.0, original_context=4096, fast=32.0, slow=1.0, rounded=False)
        return say("rope", theta=_DEFAULTS.theta, scaling=scaling)
    return rope(fields, shape.context, shape.heads.width, _DEFAULTS.theta)


def _kinds(fields: Fields, shape: rotary.Shape) -> rotary.Kinds:
    usual = ["full" if i % 2 else "local" for i in range(shape.layers)]
    return decoders.windowed(fields, usual, fields.or_null("sliding_window", int, _WINDOW))


def _experts(fields: Fields, kinds: Sequence[str]) -> dict[str, str]:
    expert = say(
        "clamped_swiglu",
        d_ff=fields.read("intermediate_size", int, _DEFAULTS.d_ff),
        limit=fields.read("swiglu_limit", float, 7.0),
        alpha=fields.read("swiglu_alpha", float, 1.702),
        bias=True,
    )
    experts, top_k = fields.read("num_local_experts", int, 128), fields.read("num_experts_per_tok", int, 4)
    return dict(moe=say("moe", experts=experts, top_k=top_k, router="softmax(renormalize=True, bias=True)", expert=expert))


def section(fields: Fields) -> dict:
    bias = fields.read("attention_bias", bool, True)
    return rotary.section(
        fields, _DEFAULTS, rotary=_position, kinds=_kinds, wiring="pre({}, moe)", mlp=_experts, bias=bias, sinks=True
    )


def hf_config(model: spec.Model) -> dict:
    _, attention, moe = first_layer(model)
    expert = need(moe, "expert")
    experts = dict(
        num_local_experts=moe["experts"],
        num_experts_per_tok=moe["top_k"],
        intermediate_size=need(expert, "d_ff"),
        swiglu_limit=need(expert, "limit"),
        swiglu_alpha=need(expert, "alpha"),
    )
    windows = decoders.windowed_fields(rotary.attentions(model))
    windows["sliding_window"] = windows["sliding_window"] or _WINDOW  # which they ask for even where no layer uses it
    return dict(**rotary.hf_config(model, _DEFAULTS, experts), **windows, attention_bias=attention["bias"])


_MLP, _THEIRS = f"{tensors.LAYER}/mlp", f"{tensors.MODEL_LAYER}.mlp"
_EXPERTS = f"{_MLP}/experts"

FAMILY = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.MODEL_ENDS,
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.heads(tensors.SELF_ATTENTION),
        *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
        Row(f"{tensors.SELF_ATTENTION}.sinks", f"{tensors.ATTENTION}/sinks"),
        Row(f"{_THEIRS}.router.weight", f"{_MLP}/router/kernel", "e d -> d e"),
        Row(f"{_THEIRS}.router.bias", f"{_MLP}/router/bias_E"),
        # Columns of gate and up in turn; n is no axis of ours.
        Row(f"{_THEIRS}.experts.gate_up_proj", (f"{_EXPERTS}/gate", f"{_EXPERTS}/up"), "e d (f +n) -> e d f"),
        Row(f"{_THEIRS}.experts.gate_up_proj_bias", (f"{_EXPERTS}/gate_bias", f"{_EXPERTS}/up_bias"), "e (f +n) -> e f"),
        Row(f"{_THEIRS}.experts.down_proj", f"{_EXPERTS}/down"),
        Row(f"{_THEIRS}.experts.down_proj_bias", f"{_EXPERTS}/down_bias"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # The gates are always clamped SiLUs; the balance loss is one of training; two are said again under other names.
    inert=("hidden_act", "router_aux_loss_coef", "output_router_logits", "experts_per_token", "initial_context_length"),
)
