"""Qwen 3 with experts, in all layers but those that are named or skipped."""

from collections.abc import Sequence

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import GATED, Family, Fields, Inexpressible, all_layers, need, say

_DEFAULTS = rotary.Defaults(vocab=151936, d_model=2048, context=32768, layers=24, heads=32, groups=4, d_ff=6144)
_WIRING = {"sparse": "pre({}, moe)", "dense": "pre({}, mlp)"}


def _experts(fields: Fields) -> int:
    return fields.read("num_experts", int, fields.read("num_local_experts", int, 128))


def _kinds(fields: Fields, shape: rotary.Shape) -> rotary.Kinds:
    step, dense = fields.read("decoder_sparse_step", int, 1), fields.read("mlp_only_layers", list, [])
    sparse = [i not in dense and (i + 1) % step == 0 and _experts(fields) > 0 for i in range(shape.layers)]
    return ["sparse" if one else "dense" for one in sparse], {kind: {} for kind in _WIRING}


def _feedforwards(fields: Fields, kinds: Sequence[str]) -> dict[str, str]:
    act, width = fields.read("hidden_act", GATED, _DEFAULTS.act), fields.read("moe_intermediate_size", int, 768)
    router = say(
        "softmax",
        renormalize=fields.read("norm_topk_prob", bool, False) or None,
        balance=decoders.balance(fields),
    )
    top_k = fields.read("num_experts_per_tok", int, 8)
    moe = say("moe", experts=_experts(fields), top_k=top_k, router=router, expert=say(act, d_ff=width))
    mlp = decoders.mlp(fields, _DEFAULTS.d_ff, _DEFAULTS.act, GATED)
    return {name: said for name, said, kind in (("moe", moe, "sparse"), ("mlp", mlp, "dense")) if kind in kinds}


def section(fields: Fields) -> dict:
    bias = fields.read("attention_bias", bool, False)
    used, window = fields.read("use_sliding_window", bool, False), decoders.mask(fields, 4096)
    keys = window if used else {}
    return rotary.section(fields, _DEFAULTS, kinds=_kinds, wiring=_WIRING, mlp=_feedforwards, keys=keys, bias=bias, qk_norm="norm")


def hf_config(model: spec.Model) -> dict:
    layers = all_layers(model)
    _, attention, _ = layers[0]
    parts = [part for *_, part in layers]
    moe = next((part for part in parts if part.name == "moe"), None)
    if moe is None:
        raise Inexpressible("there are no experts")
    dense = {i: part for i, part in enumerate(parts) if part.name != "moe"}
    widths = decoders.mlp_fields(moe["expert"], GATED)
    width = widths.pop("intermediate_size")
    experts = dict(
        **widths,
        intermediate_size=need(next(iter(dense.values()), moe["expert"]), "d_ff"),
        moe_intermediate_size=width,
        num_experts=moe["experts"],
        num_experts_per_tok=moe["top_k"],
        norm_topk_prob=moe["router"].get("renormalize", False),
        router_aux_loss_coef=decoders.balance_field(model, moe),
        mlp_only_layers=list(dense),
    )
    window = attention["mask"].get("window")
    values = dict(**rotary.hf_config(model, _DEFAULTS, experts), sliding_window=window, use_sliding_window=window is not None)
    return dict(**values, attention_bias=attention["bias"])


_MLP = f"{tensors.MODEL_LAYER}.mlp"

FAMILY = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(*tensors.GATED_DECODER, *tensors.experts(_MLP, **tensors.GATED)),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=("output_router_logits", "max_window_layers"),
)
