"""Phi 3: LLaMA with queries, keys and values in one tensor, and gate and up in another."""

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer, say
from taxonomy.interop.rows import Row

_DEFAULTS = rotary.Defaults(vocab=32064, d_model=3072, context=4096, layers=32, heads=32, d_ff=8192, eps=1e-5, partial=1.0)
# Its longrope has a list of factors for short texts and one for long texts.
_ROPE = dict(kinds={"default": "default"})


def section(fields: Fields) -> dict:
    wiring = say("pre({}, mlp)", dropout=decoders.dropout(fields, "resid_pdrop"))
    return rotary.section(fields, _DEFAULTS, rotary=_ROPE, wiring=wiring, keys=decoders.mask(fields))


def hf_config(model: spec.Model) -> dict:
    block, attention, _ = first_layer(model)
    return dict(**rotary.hf_config(model, _DEFAULTS), sliding_window=attention["mask"].get("window"), resid_pdrop=block["dropout"])


_MLP = tuple(f"{tensors.LAYER}/mlp/{part}" for part in ("gate", "up"))

FAMILY = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.MODEL_ENDS,
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.fused_heads(f"{tensors.SELF_ATTENTION}.qkv_proj", "(+h k) d -> d h k"),
        *tensors.out(f"{tensors.SELF_ATTENTION}.o_proj"),
        Row(f"{tensors.MODEL_LAYER}.mlp.gate_up_proj.weight", _MLP, "+f d -> d f"),
        *tensors.mlp(f"{tensors.MODEL_LAYER}.mlp", down="down_proj"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # embd_pdrop is not used; the original context only by longrope; the code was first published beside the weights.
    inert=("embd_pdrop", "original_max_position_embeddings", "auto_map"),
)
