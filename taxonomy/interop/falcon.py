"""Falcon: one head of keys and values after a shared norm (7B), groups of them and two norms (40B), or one after another (RW)."""

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop import decoders, tensors
from taxonomy.interop.decoders import Heads
from taxonomy.interop.family import PLAIN, Family, Fields, Inexpressible, first_layer, kv_heads, need, say, word
from taxonomy.interop.rope import rope, rope_parameters

_SHARED, _APART, _SEQUENTIAL = "parallel(attention, mlp)", "parallel(attention, mlp, shared_norm=False)", "pre(attention, mlp)"


def _heads(fields: Fields, d_model: int, grouped: bool) -> Heads:
    heads = fields.read("num_attention_heads", int, 71)
    groups = fields.read("num_kv_heads", int, heads)
    one = fields.read("multi_query", bool, True)
    if not grouped:
        groups = 1 if one else heads
    return Heads(heads, groups, d_model // heads, d_model)


def _wiring(fields: Fields, grouped: bool) -> str:
    norms = fields.read("num_ln_in_parallel_attn", int, 2 if grouped else 1)
    parallel = fields.read("parallel_attn", bool, True)
    if norms not in (1, 2) or (grouped and not parallel) or (norms == 2 and not grouped):
        raise UserError(
            f"{fields.source}: num_ln_in_parallel_attn={norms}, parallel_attn={parallel} and new_decoder_architecture={grouped} "
            "do not go together"
        )
    return _APART if norms == 2 else _SHARED if parallel else _SEQUENTIAL


def section(fields: Fields) -> dict:
    sizes = decoders.sizes(fields, 65024, 4544, 2048)
    grouped = fields.read("new_decoder_architecture", bool, False)
    heads, bias = _heads(fields, sizes["d_model"], grouped), fields.read("bias", bool, False)
    alibi = fields.read("alibi", bool, False)
    if alibi:
        fields.inside("rope_parameters")  # written all the same, and not used
    return dict(
        **sizes,
        norm=say("layernorm", eps=fields.read("layer_norm_epsilon", float, 1e-5)),
        # Its biases of scores are scaled with the scores.
        position=say("alibi", scale=heads.width**-0.5) if alibi else rope(fields, sizes["context"], heads.width),
        attention=heads.say(bias=bias),
        mlp=say(
            fields.read("activation", PLAIN, "gelu"),
            d_ff=fields.read("ffn_hidden_size", int, 4 * sizes["d_model"]),
            bias=bias or None,
        ),
        blocks=dict(block=_wiring(fields, grouped)),
        decoder=f"{fields.read('num_hidden_layers', int, 32)}*block",
        **decoders.ends(fields, tied=True),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, mlp = first_layer(model)
    heads, groups = need(attention, "heads"), kv_heads(attention)
    apart = block.get("shared_norm") is False
    grouped, alibi = apart or groups not in (1, heads), attention["position"].name == "alibi"
    if grouped and block.name != "parallel":
        raise Inexpressible(f"groups of heads in a block '{block.name}'")
    return dict(
        **decoders.common_fields(model),
        num_attention_heads=heads,
        num_kv_heads=groups if grouped else heads,
        multi_query=groups == 1,
        new_decoder_architecture=grouped,
        parallel_attn=block.name == "parallel",
        num_ln_in_parallel_attn=(2 if apart else 1) if grouped else None,
        ffn_hidden_size=need(mlp, "d_ff"),
        activation=word(PLAIN, mlp.name),
        bias=attention["bias"],
        layer_norm_epsilon=need(block["norm"], "eps"),
        **({"alibi": True} if alibi else {"rope_parameters": rope_parameters(attention)}),
    )


def _layout(grouped: bool, one: bool | None):
    """Whether config.json says so; `one` is whether all heads share their keys."""

    def when(values) -> bool:
        now = values.get("new_decoder_architecture") is True
        return now == grouped and one in (None, values.get("multi_query") is not False)

    return when


HIDDEN = "transformer.h.{layer}"
QKV = f"{HIDDEN}.self_attention.query_key_value"
FAMILY = Family(
    model_type="falcon",
    architecture="FalconForCausalLM",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("transformer.word_embeddings", "transformer.ln_f"),
        *tensors.shared_norm(f"{HIDDEN}.input_layernorm"),
        *tensors.pre_norms(HIDDEN, "ln_attn", "ln_mlp", when=_layout(True, None)),
        *tensors.pre_norms(HIDDEN, when=_layout(False, None)),
        *tensors.fused_heads(QKV, "(kv_heads +r k) d -> d (kv_heads r) k", _layout(True, None)),
        *tensors.fused_heads(QKV, "(+h k) d -> d h k", _layout(False, True)),
        *tensors.fused_heads(QKV, when=_layout(False, False)),
        *tensors.out(f"{HIDDEN}.self_attention.dense"),
        *tensors.mlp(f"{HIDDEN}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
    ),
    buffers=(f"{HIDDEN}.self_attention.rotary_emb.inv_freq",),
    tied={"lm_head.weight": "transformer.word_embeddings.weight"},
    # The code was first published beside the weights.
    inert=("auto_map",),
    # Its rates apply in other places than ours.
    fixed={
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "apply_residual_connection_post_layernorm": False,
    },
)
