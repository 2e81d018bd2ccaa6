"""Persimmon: squared ReLU, norms of queries and keys, half of every head rotated."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer

_DEFAULTS = rotary.Defaults(
    vocab=262144,
    d_model=4096,
    context=16384,
    layers=36,
    heads=64,
    own_heads=False,
    d_ff=16384,
    eps=1e-5,
    eps_name="layer_norm_eps",
    words=PLAIN,
    act="relu2",
    partial=0.5,
)


def section(fields: Fields) -> dict:
    return rotary.section(
        fields,
        _DEFAULTS,
        norm="layernorm",
        mlp_bias=True,
        bias=True,
        qk_norm="norm" if fields.read("qk_layernorm", bool, True) else None,
    )


def hf_config(model: spec.Model) -> dict:
    _, attention, _ = first_layer(model)
    return dict(**rotary.hf_config(model, _DEFAULTS), qk_layernorm=attention["qk_norm"] is not None)


FAMILY = Family(
    model_type="persimmon",
    architecture="PersimmonForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("model.embed_tokens", "model.final_layernorm"),
        *tensors.pre_norms(tensors.MODEL_LAYER),
        *tensors.fused_heads(f"{tensors.SELF_ATTENTION}.query_key_value"),
        *tensors.qk_norm(tensors.SELF_ATTENTION, "q_layernorm", "k_layernorm"),
        *tensors.out(f"{tensors.SELF_ATTENTION}.dense"),
        *tensors.mlp(f"{tensors.MODEL_LAYER}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # It applies to the feed-forward alone.
    fixed={"hidden_dropout": 0.0},
)
