"""What models with latent attention share: its fields and tensors, dense first layers, and experts in the others."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop import decoders, tensors
from taxonomy.interop.family import GATED, Fields, Inexpressible, all_layers, need, say
from taxonomy.interop.rope import rope, rope_parameters
from taxonomy.interop.rows import Row
from taxonomy.registry import Component

# Norms of latents have this one whatever the others have.
_LATENT_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What absent fields mean in a family. dense: layers before the first with experts."""

    vocab: int
    d_model: int
    context: int
    layers: int
    heads: int
    d_ff: int
    dense: int
    experts: int
    top_k: int | None
    d_ff_expert: int
    shared: int
    router_scale: float


def section(
    fields: Fields, default: Defaults, router: Callable[[Fields, float], str], interleaved: Callable[[Fields], bool]
) -> dict[str, Any]:
    """A family's section; `router` is given the scale of its weights."""
    sizes = decoders.sizes(fields, default.vocab, default.d_model, default.context)
    eps = fields.read("rms_norm_eps", float, 1e-6)
    layers = fields.read("num_hidden_layers", int, default.layers)
    heads = fields.read("num_attention_heads", int, default.heads)
    if fields.read("num_key_value_heads", int, heads) != heads:
        raise UserError(f"{fields.source}: num_key_value_heads: must be num_attention_heads={heads}: every head has its own keys")
    widths = {
        name: fields.read(theirs, int, usual)
        for name, theirs, usual in (
            ("kv_rank", "kv_lora_rank", 512),
            ("head_dim", "qk_nope_head_dim", 128),
            ("rotary_dim", "qk_rope_head_dim", 64),
            ("value_dim", "v_head_dim", 128),
        )
    }
    if widths["value_dim"] == widths["head_dim"]:
        del widths["value_dim"]
    attention = say(
        "latent",
        heads=heads,
        **widths,
        query_rank=fields.or_null("q_lora_rank", int, 1536),
        norm=None if eps == _LATENT_EPS else say("rmsnorm", eps=_LATENT_EPS),
        dropout=decoders.dropout(fields, "attention_dropout"),
    )
    position = rope(fields, sizes["context"], widths["rotary_dim"], interleaved=interleaved(fields), sharpened=True)
    dense = min(fields.read("first_k_dense_replace", int, default.dense), layers)
    sublayers = {"dense": _dense(fields, default), "sparse": _sparse(fields, default, router)}
    kinds = ["dense"] * dense + ["sparse"] * (layers - dense)
    used = {kind: {"dense": "mlp", "sparse": "moe"}[kind] for kind in dict.fromkeys(kinds)}
    return dict(
        **sizes,
        norm=say("rmsnorm", eps=eps),
        position=position,
        attention=attention,
        **{name: sublayers[kind] for kind, name in used.items()},
        blocks={kind: f"pre(attention, {name})" for kind, name in used.items()},
        decoder=decoders.algebra(kinds),
        **decoders.ends(fields),
    )


def _dense(fields: Fields, default: Defaults) -> str:
    return decoders.mlp(fields, default.d_ff, "swiglu", GATED)


def _sparse(fields: Fields, default: Defaults, router: Callable[[Fields, float], str]) -> str:
    kind, width = fields.read("hidden_act", GATED, "swiglu"), fields.read("moe_intermediate_size", int, default.d_ff_expert)
    shared = fields.read("n_shared_experts", int, default.shared)
    return say(
        "moe",
        experts=fields.read("n_routed_experts", int, default.experts),
        top_k=fields.read("num_experts_per_tok", int, *([] if default.top_k is None else [default.top_k])),
        router=router(fields, fields.read("routed_scaling_factor", float, default.router_scale)),
        expert=say(kind, d_ff=width),
        shared=say(kind, d_ff=shared * width),
    )


def groups(fields: Fields, count: int | None, limit: int | None, best: int | None = None) -> dict[str, int | None]:
    """Arguments of a router that chooses among a few groups of experts; `count` and `limit` are the family's defaults."""
    count, limit = fields.or_null("n_group", int, count), fields.or_null("topk_group", int, limit)
    return {} if count in (None, 1) else dict(groups=count, group_limit=limit, group_best=best)


def groups_fields(router: Component | None) -> dict[str, int]:
    """The inverse."""
    return {} if router is None else dict(n_group=router.get("groups", 1), topk_group=router.get("group_limit", 1))


def hf_config(model: spec.Model) -> tuple[dict[str, Any], Component | None]:
    """The inverse of `section`, and the router, if there is one: its fields differ between families."""
    layers = all_layers(model, attentions=("latent",))
    block, attention, _ = layers[0]
    mlps = [mlp for *_, mlp in layers]
    dense = next((mlp for mlp in mlps if mlp.name != "moe"), None)
    sparse = next((mlp for mlp in mlps if mlp.name == "moe"), None)
    values = dict(
        **decoders.common_fields(model),
        num_attention_heads=attention["heads"],
        num_key_value_heads=attention["heads"],
        kv_lora_rank=attention["kv_rank"],
        q_lora_rank=attention["query_rank"],
        qk_nope_head_dim=attention["head_dim"],
        qk_rope_head_dim=attention["rotary_dim"],
        v_head_dim=attention["value_dim"],
        attention_dropout=attention["dropout"],
        rms_norm_eps=need(block["norm"], "eps"),
        rope_parameters=rope_parameters(attention, attention["rotary_dim"]),
        first_k_dense_replace=len(mlps) if sparse is None else mlps.index(sparse),
        **decoders.mlp_fields(sparse["expert"] if dense is None else dense, GATED),
    )
    if sparse is None:
        # Its number has no default in some families.
        return values | dict(num_experts_per_tok=1), None
    width = need(sparse["expert"], "d_ff")
    if sparse["shared"] is None or need(sparse["shared"], "d_ff") % width:
        raise Inexpressible(f"shared={sparse['shared']} where a multiple of experts of d_ff={width} is expected")
    values |= dict(
        n_routed_experts=sparse["experts"],
        num_experts_per_tok=sparse["top_k"],
        moe_intermediate_size=width,
        n_shared_experts=sparse["shared"]["d_ff"] // width,
        routed_scaling_factor=sparse["router"].get("scale"),
    )
    return values, sparse["router"]


# Fields that follow from others, are about training alone, or name layers that their class does not have.
INERT = """
    head_dim qk_head_dim pretraining_tp ep_size aux_loss_alpha seq_aux output_router_logits num_nextn_predict_layers auto_map
""".split()  # noqa: SIM905
FIXED = {"attention_bias": False, "mlp_bias": False, "moe_layer_freq": 1}


def _plain(values: Mapping[str, Any]) -> bool:
    """Whether queries are not compressed."""
    return values.get("q_lora_rank", 0) is None


_OURS, _THEIRS, _MLP = tensors.ATTENTION, tensors.SELF_ATTENTION, f"{tensors.MODEL_LAYER}.mlp"
ROWS = (
    *tensors.MODEL_ENDS,
    *tensors.pre_norms(tensors.MODEL_LAYER),
    Row(f"{_THEIRS}.q_proj.weight", f"{_OURS}/query", "(h k) d -> d h k", _plain),
    Row(f"{_THEIRS}.q_b_proj.weight", f"{_OURS}/query", "(h k) l -> l h k", lambda values: not _plain(values)),
    Row(f"{_THEIRS}.q_a_proj.weight", f"{_OURS}/query_latent", "l d -> d l"),
    *tensors.norm(f"{_THEIRS}.q_a_layernorm", f"{_OURS}/query_latent_norm"),
    Row(f"{_THEIRS}.kv_a_proj_with_mqa.weight", (f"{_OURS}/latent", f"{_OURS}/rotary_key"), "+l d -> d l"),
    *tensors.norm(f"{_THEIRS}.kv_a_layernorm", f"{_OURS}/latent_norm"),
    Row(f"{_THEIRS}.kv_b_proj.weight", (f"{_OURS}/key", f"{_OURS}/value"), "(h +k) l -> l h k"),
    *tensors.out(f"{_THEIRS}.o_proj"),
    *tensors.gated_mlp(_MLP),
    *tensors.experts(_MLP, **tensors.GATED),
    *tensors.gated_mlp(f"{_MLP}.shared_experts", "shared/"),
    Row(f"{_MLP}.gate.e_score_correction_bias", f"{tensors.LAYER}/mlp/router/selection_bias"),
)
