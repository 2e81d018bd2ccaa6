"""Phi 1 and 2: attention and feed-forward side by side after one norm, biases everywhere, part of every head rotated."""

from taxonomy import spec
from taxonomy.interop import decoders, rotary, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer, say

_DEFAULTS = rotary.Defaults(
    vocab=51200,
    d_model=2048,
    context=2048,
    layers=24,
    heads=32,
    d_ff=8192,
    eps=1e-5,
    eps_name="layer_norm_eps",
    words=PLAIN,
    act="gelu_tanh",
    partial=0.5,
)


def section(fields: Fields) -> dict:
    return rotary.section(
        fields,
        _DEFAULTS,
        norm="layernorm",
        wiring=say("parallel({}, mlp)", dropout=decoders.dropout(fields, "resid_pdrop")),
        mlp_bias=True,
        keys=dict(embedding=say("table", dropout=decoders.dropout(fields, "embd_pdrop"))),
        head=dict(bias=True),
        bias=True,
        qk_norm="norm" if fields.read("qk_layernorm", bool, False) else None,
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, _ = first_layer(model)
    return dict(
        **rotary.hf_config(model, _DEFAULTS),
        qk_layernorm=attention["qk_norm"] is not None,
        resid_pdrop=block["dropout"],
        embd_pdrop=model.embedding.get("dropout"),
    )


FAMILY = Family(
    model_type="phi",
    architecture="PhiForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("model.embed_tokens", "model.final_layernorm"),
        *tensors.shared_norm(f"{tensors.MODEL_LAYER}.input_layernorm"),
        *tensors.heads(tensors.SELF_ATTENTION),
        *tensors.qk_norm(tensors.SELF_ATTENTION, "q_layernorm", "k_layernorm"),
        *tensors.out(f"{tensors.SELF_ATTENTION}.dense"),
        *tensors.mlp(f"{tensors.MODEL_LAYER}.mlp", up="fc1", down="fc2"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # The code was first published beside the weights.
    inert=("auto_map",),
)
