"""Llama 4, its text decoder: experts whose inputs are weighted, chunks of attention, and layers without positions."""

from collections.abc import Sequence
from typing import Any

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import GATED, Family, Fields, Inexpressible, all_layers, need, say
from taxonomy.interop.rows import Row

_DEFAULTS = rotary.Defaults(
    vocab=202048, d_model=5120, context=131072, layers=48, heads=40, groups=8, head_dim=128, d_ff=8192, eps=1e-5, theta=500000.0
)
_DENSE_WIDTH = 16384
_MASKS = {"full_attention": "full", "chunked_attention": "chunks"}
_POSITIONS = {0: "nope", 1: "rope"}
# What a layer is called by its mask, position and feed-forward.
_CALLED = {("chunks", "rope"): "local", ("full", "nope"): "full", ("full", "rope"): "full_rope", ("chunks", "nope"): "local_nope"}
_NAMES = {(*kind, part): f"{prefix}{name}" for kind, name in _CALLED.items() for part, prefix in (("moe", ""), ("mlp", "dense_"))}
_WIRING = {name: f"pre({{}}, {part})" for (_, _, part), name in _NAMES.items()}


def _kinds(fields: Fields, shape: rotary.Shape) -> rotary.Kinds:
    """Kinds are called after their mask and position, those without experts dense_local and so on."""
    interval = fields.read("no_rope_layer_interval", int, 4)
    usual = ["nope" if (i + 1) % interval == 0 else "rope" for i in range(shape.layers)]
    positions = decoders.listed(fields, "no_rope_layers", _POSITIONS, usual)
    masks = decoders.listed(fields, "layer_types", _MASKS, ["full" if p == "nope" else "chunks" for p in positions])
    step = fields.read("interleave_moe_layer_step", int, 1)
    sparse = fields.read("moe_layers", list, list(range(step - 1, shape.layers, step)))
    parts = ["moe" if i in sparse else "mlp" for i in range(shape.layers)]
    kinds = [_NAMES[one] for one in zip(masks, positions, parts, strict=True)]
    by_word = _variants(fields, "chunks" in masks)
    return kinds, {name: by_word[mask] | by_word[position] for (mask, position, _), name in _NAMES.items()}


def _variants(fields: Fields, in_chunks: bool) -> dict[str, dict[str, Any]]:
    """The arguments of attention that each word for a mask and for a position brings."""
    size = fields.or_null("attention_chunk_size", int, 8192)
    if size is None and in_chunks:
        raise UserError(f"{fields.source}: layer_types has 'chunked_attention', but there is no attention_chunk_size")
    scale, floor = fields.read("attn_scale", float, 0.1), fields.read("floor_scale", int, 8192)
    tuned = fields.read("attn_temperature_tuning", bool, True)
    norm = say("rmsnorm", eps=fields.read(_DEFAULTS.eps_name, float, _DEFAULTS.eps), gain=False)
    return {
        "full": {},
        "chunks": dict(mask=say("chunks", size=size)),
        "rope": dict(qk_norm=norm, qk_norm_after_position=True) if fields.read("use_qk_norm", bool, True) else {},
        "nope": dict(position="none", temperature=say("log_position", scale=scale, floor=floor) if tuned else None),
    }


def _feedforwards(fields: Fields, kinds: Sequence[str]) -> dict[str, str]:
    act = fields.read("hidden_act", GATED, "swiglu")
    expert = say(act, d_ff=fields.read("intermediate_size", int, _DEFAULTS.d_ff))
    experts, top_k = fields.read("num_local_experts", int, 16), fields.read("num_experts_per_tok", int, 1)
    found = dict(
        moe=say("moe", experts=experts, top_k=top_k, router="sigmoid", expert=expert, shared=expert, weigh="'input'"),
        mlp=say(act, d_ff=fields.read("intermediate_size_mlp", int, _DENSE_WIDTH)),
    )
    return {part: said for part, said in found.items() if any(_WIRING[kind].endswith(f"{part})") for kind in kinds)}


def section(fields: Fields) -> dict:
    bias = fields.read("attention_bias", bool, False)
    return rotary.section(
        fields, _DEFAULTS, rotary=dict(interleaved=True), kinds=_kinds, wiring=_WIRING, mlp=_feedforwards, bias=bias
    )


def hf_config(model: spec.Model) -> dict:
    layers = all_layers(model)
    attentions, parts = [attention for _, attention, _ in layers], [part for _, _, part in layers]
    moe = next((part for part in parts if part.name == "moe"), None)
    if moe is None:
        raise Inexpressible("there are no experts")
    dense = next((part for part in parts if part.name != "moe"), None)
    named = decoders.mlp_fields(moe["expert"], GATED)
    experts = dict(
        **named,
        num_local_experts=moe["experts"],
        num_experts_per_tok=moe["top_k"],
        intermediate_size_mlp=_DENSE_WIDTH if dense is None else need(dense, "d_ff"),
        moe_layers=[i for i, part in enumerate(parts) if part.name == "moe"],
    )
    rotated = [int(attention["position"].name != "none") for attention in attentions]
    temperature = next(
        (a["temperature"] for a, rope in zip(attentions, rotated, strict=True) if not rope and a["temperature"]), None
    )
    tuning = {} if temperature is None else dict(attn_scale=temperature["scale"], floor_scale=temperature["floor"])
    sizes = [attention["mask"].get("size") for attention in attentions]
    return dict(
        **rotary.hf_config(model, _DEFAULTS, experts),
        **tuning,
        attn_temperature_tuning=temperature is not None,
        no_rope_layers=rotated,
        layer_types=["full_attention" if size is None else "chunked_attention" for size in sizes],
        attention_chunk_size=next((size for size in sizes if size is not None), None),
        use_qk_norm=any(attention["qk_norm"] is not None for attention in attentions),
        attention_bias=attentions[0]["bias"],
    )


_MLP, _THEIRS = f"{tensors.LAYER}/mlp", f"{tensors.MODEL_LAYER}.feed_forward"
_GATED = dict(gate="gate_proj", up="up_proj", down="down_proj")

FAMILY = Family(
    model_type="llama4_text",
    architecture="Llama4ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.MODEL_ENDS,
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.heads(tensors.SELF_ATTENTION),
        *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
        *tensors.gated_mlp(_THEIRS),
        *(Row(f"{_THEIRS}.shared_expert.{name}.weight", f"{_MLP}/shared/{ours}", "o i -> i o") for ours, name in _GATED.items()),
        Row(f"{_THEIRS}.router.weight", f"{_MLP}/router/kernel", "e d -> d e"),
        Row(f"{_THEIRS}.experts.gate_up_proj", (f"{_MLP}/experts/gate", f"{_MLP}/experts/up"), "e d +f -> e d f"),
        Row(f"{_THEIRS}.experts.down_proj", f"{_MLP}/experts/down"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # Of training alone.
    inert=("router_aux_loss_coef", "router_jitter_noise", "output_router_logits"),
)
