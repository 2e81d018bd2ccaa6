"""LLaMA 1, 2 and 3: rotary pairs are (i, i + head_dim/2) in the released checkpoints, as in our `rope`."""

from taxonomy import spec
from taxonomy.interop import rotary, tensors
from taxonomy.interop.family import Family, Fields, Inexpressible, first_layer, need

_DEFAULTS = rotary.Defaults(vocab=32000, d_model=4096, context=2048, layers=32, heads=32, d_ff=11008)


def section(fields: Fields) -> dict:
    bias, mlp_bias = (fields.read(name, bool, False) for name in ("attention_bias", "mlp_bias"))
    return rotary.section(fields, _DEFAULTS, bias=bias, mlp_bias=mlp_bias)


def hf_config(model: spec.Model) -> dict:
    _, attention, mlp = first_layer(model)
    if model.d_model % need(attention, "heads"):
        # The number heads * head_dim may differ, but from_pretrained refuses this.
        raise Inexpressible(f"d_model={model.d_model} is not a multiple of heads={attention['heads']}", near=True)
    return dict(**rotary.hf_config(model, _DEFAULTS), attention_bias=attention["bias"], mlp_bias=mlp.get("bias"))


FAMILY = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=tensors.GATED_DECODER,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    # pretraining_tp splits a product into parts; max_sequence_length repeats max_position_embeddings in old checkpoints.
    inert=("pretraining_tp", "max_sequence_length", "is_llama_config"),
    fixed={"rope_interleaved": False},
)
