"""StableLM: LLaMA with LayerNorm, part of every head rotated, and maybe a norm for every head of queries and of keys."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import Family, Fields, first_layer, say
from taxonomy.interop.rows import Row

_DEFAULTS = rotary.Defaults(
    vocab=50304,
    d_model=2560,
    context=4096,
    layers=32,
    heads=32,
    groups=32,
    d_ff=6912,
    eps=1e-5,
    eps_name="layer_norm_eps",
    partial=0.25,
)


def section(fields: Fields) -> dict:
    normed = fields.read("qk_layernorm", bool, False)
    eps = fields.read("layer_norm_eps", float, 1e-5)
    return rotary.section(
        fields,
        _DEFAULTS,
        norm="layernorm",
        wiring="parallel({}, mlp)" if fields.read("use_parallel_residual", bool, False) else "pre({}, mlp)",
        bias=fields.read("use_qkv_bias", bool, False),
        out_bias=False,
        qk_norm=say("layernorm", eps=eps, bias=False) if normed else None,
        qk_norm_per_head=normed,
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, _ = first_layer(model)
    return dict(
        **rotary.hf_config(model, _DEFAULTS),
        use_qkv_bias=attention["bias"],
        qk_layernorm=attention["qk_norm"] is not None,
        use_parallel_residual=block.name == "parallel",
    )


_NORM = "model.layers.{{layer}}.self_attn.{}_layernorm.norms.{{head}}.weight"
FAMILY = Family(
    model_type="stablelm",
    architecture="StableLmForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.GATED_LAYERS,
        *tensors.shared_norm(f"{tensors.MODEL_LAYER}.input_layernorm"),
        # Every head's norm is a module of its own.
        Row(_NORM.format("q"), f"{tensors.ATTENTION}/query_norm/scale", "head k -> head k"),
        Row(_NORM.format("k"), f"{tensors.ATTENTION}/key_norm/scale", "head k -> head k"),
    ),
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # It applies to the feed-forward alone.
    fixed={"hidden_dropout": 0.0},
)
