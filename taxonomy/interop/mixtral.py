"""Mixtral: Mistral with experts in every layer."""

from collections.abc import Sequence

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import GATED, Family, Fields, first_layer, need, say

_DEFAULTS = rotary.Defaults(
    vocab=32000, d_model=4096, context=131072, layers=32, heads=32, groups=8, d_ff=14336, eps=1e-5, theta=1e6
)


def _experts(fields: Fields, kinds: Sequence[str]) -> dict[str, str]:
    moe = say(
        "moe",
        experts=fields.read("num_local_experts", int, 8),
        top_k=fields.read("num_experts_per_tok", int, 2),
        router=say("softmax", renormalize=True, balance=decoders.balance(fields)),
        expert=decoders.mlp(fields, _DEFAULTS.d_ff, _DEFAULTS.act, GATED),
    )
    return dict(moe=moe)


def section(fields: Fields) -> dict:
    return rotary.section(fields, _DEFAULTS, wiring="pre({}, moe)", mlp=_experts, keys=decoders.mask(fields))


def hf_config(model: spec.Model) -> dict:
    _, attention, moe = first_layer(model)
    experts = dict(
        **decoders.mlp_fields(need(moe, "expert"), GATED),
        num_local_experts=moe["experts"],
        num_experts_per_tok=moe["top_k"],
        router_aux_loss_coef=decoders.balance_field(model, moe),
    )
    return dict(**rotary.hf_config(model, _DEFAULTS, experts), sliding_window=attention["mask"].get("window"))


_THEIRS = f"{tensors.MODEL_LAYER}.block_sparse_moe"

FAMILY = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.MODEL_ENDS,
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.heads(tensors.SELF_ATTENTION),
        *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
        *tensors.experts(_THEIRS, gate="w1", up="w3", down="w2"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=("output_router_logits",),
    # Their noise multiplies what experts read as well.
    fixed={"router_jitter_noise": 0.0},
)
