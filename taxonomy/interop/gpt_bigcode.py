"""StarCoder and SantaCoder: GPT-2 with one head of keys and values, and linear layers stored [outputs, inputs]."""

from taxonomy.interop import gpt2, tensors
from taxonomy.interop.family import Family, Fields, first_layer, kv_heads


def section(fields: Fields) -> dict:
    return gpt2.section(fields, "mqa" if fields.read("multi_query", bool, True) else "mha")


def hf_config(model) -> dict:
    _, attention, _ = first_layer(model)
    return dict(**gpt2.hf_config(model), multi_query=kv_heads(attention) == 1)


def one_group(values) -> bool:
    return values.get("multi_query") is not False


FAMILY = Family(
    model_type="gpt_bigcode",
    architecture="GPTBigCodeForCausalLM",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *gpt2.ENDS,
        *gpt2.layer_rows(gpt2.HIDDEN, "d (h k) -> h k d", "o i -> i o"),
        *tensors.fused_heads(f"{gpt2.HIDDEN}.attn.c_attn", "(+h k) d -> d h k", one_group),
        *tensors.fused_heads(f"{gpt2.HIDDEN}.attn.c_attn", when=lambda values: not one_group(values)),
    ),
    buffers=gpt2.BUFFERS,
    tied=gpt2.TIED,
    # The precision of softmax, the order of computation, and a repetition of multi_query.
    inert=(
        "attention_softmax_in_fp32",
        "scale_attention_softmax_in_fp32",
        "inference_runner",
        "max_batch_size",
        "max_sequence_length",
        "pad_key_length",
        "pre_allocate_kv_cache",
        "validate_runner_input",
        "num_key_value_heads",
        "n_ctx",
        *gpt2.SUMMARY,
    ),
)
