"""The first GPT: norms after each sublayer, and its "gelu" is the tanh approximation."""

from taxonomy.interop import gpt2, tensors
from taxonomy.interop.decoders import dropout
from taxonomy.interop.family import Family, Fields, first_layer, say, word
from taxonomy.interop.rows import Row

_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


def section(fields: Fields) -> dict:
    return dict(
        **gpt2.sizes(fields, 40478, 768, 512),
        position="learned",
        attention=say("mha", heads=fields.read("n_head", int, 12), bias=True, dropout=dropout(fields, "attn_pdrop", 0.1)),
        mlp=say(fields.read("afn", _ACTIVATIONS, "gelu_tanh"), d_ff="4*d_model", bias=True),
        blocks=dict(block=say("post(attention, mlp)", dropout=dropout(fields, "resid_pdrop", 0.1))),
        decoder=f"{fields.read('n_layer', int, 12)}*block",
        head="tied" if fields.read("tie_word_embeddings", bool, True) else "untied",
        initializer=say("normal", std=fields.read("initializer_range", float, 0.02)),
    )


def hf_config(model) -> dict:
    _, _, mlp = first_layer(model)
    return dict(**gpt2.sizes_fields(model), afn=word(_ACTIVATIONS, mlp.name))


FAMILY = Family(
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        Row("transformer.tokens_embed.weight", "embedding/table"),
        Row("transformer.positions_embed.weight", "embedding/positions/table"),
        *gpt2.layer_rows(gpt2.HIDDEN, "(h k) d -> h k d", ""),
        *tensors.fused_heads(f"{gpt2.HIDDEN}.attn.c_attn", "d (+h k) -> d h k"),
        Row("lm_head.weight", "head/kernel"),
    ),
    buffers=(*gpt2.BUFFERS, "transformer.position_ids"),
    tied={"lm_head.weight": "transformer.tokens_embed.weight"},
    inert=("n_ctx", "n_special", "predict_special_tokens", *gpt2.SUMMARY),
)
