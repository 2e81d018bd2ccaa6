"""GPT-2: linear layers are stored [inputs, outputs], with queries, keys and values in one."""

from taxonomy.interop import tensors
from taxonomy.interop.decoders import dropout
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer, need, say, spread, word
from taxonomy.interop.rows import Row
from taxonomy.interop.tensors import Rows

# Fields of classification heads.
SUMMARY = ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")


def sizes(fields: Fields, vocab: int, d_model: int, context: int, dropout_rate: float = 0.1) -> dict:
    """What models with these words for sizes share, up to the position."""
    return dict(
        vocab=fields.read("vocab_size", int, vocab),
        d_model=fields.read("n_embd", int, d_model),
        context=fields.read("n_positions", int, context),
        norm=say("layernorm", eps=fields.read("layer_norm_epsilon", float, 1e-5)),
        embedding=say("table", dropout=dropout(fields, "embd_pdrop", dropout_rate)),
    )


def sizes_fields(model) -> dict:
    """The inverse of `sizes`, with heads, layers and rates."""
    block, attention, _ = first_layer(model)
    return dict(
        vocab_size=model.vocab,
        n_embd=model.d_model,
        n_positions=model.context,
        n_layer=len(model.decoder),
        n_head=need(attention, "heads"),
        layer_norm_epsilon=need(block["norm"], "eps"),
        embd_pdrop=model.embedding.get("dropout"),
        attn_pdrop=attention["dropout"],
        resid_pdrop=block["dropout"],
        tie_word_embeddings=model.head.name == "tied",
        initializer_range=spread(model),
    )


def mlp(fields: Fields, d_model: int) -> str:
    return say(
        fields.read("activation_function", PLAIN, "gelu_tanh"),
        d_ff=fields.read("n_inner", int, 4 * d_model),
        bias=True,
    )


def mlp_fields(mlp) -> dict:
    return dict(activation_function=word(PLAIN, mlp.name), n_inner=need(mlp, "d_ff"))


def section(fields: Fields, kind: str = "mha") -> dict:
    found = sizes(fields, 50257, 768, 1024)
    std = fields.read("initializer_range", float, 0.02)
    scaled = fields.read("scale_attn_weights", bool, True)
    return dict(
        **found,
        position="learned",
        attention=say(
            kind,
            heads=fields.read("n_head", int, 12),
            bias=True,
            scale=None if scaled else 1.0,
            dropout=dropout(fields, "attn_pdrop", 0.1),
        ),
        mlp=mlp(fields, found["d_model"]),
        blocks=dict(block=say("pre(attention, mlp)", dropout=dropout(fields, "resid_pdrop", 0.1))),
        decoder=f"{fields.read('n_layer', int, 12)}*block",
        head="tied" if fields.read("tie_word_embeddings", bool, True) else "untied",
        initializer=f"normal(std={std}, residual_std={std}*(2*layers)**-0.5)",
    )


def hf_config(model) -> dict:
    _, attention, mlp = first_layer(model)
    return dict(**sizes_fields(model), **mlp_fields(mlp), scale_attn_weights=attention["scale"] != 1.0)


def layer_rows(layer: str, out: str, linear: str) -> Rows:
    """The rows of a layer besides the fused heads; the patterns are those of its linear layers."""
    return (
        *tensors.pre_norms(layer, "ln_1", "ln_2"),
        *tensors.out(f"{layer}.attn.c_proj", out),
        *tensors.mlp(f"{layer}.mlp", linear, up="c_fc", down="c_proj"),
    )


HIDDEN = "transformer.h.{layer}"
ENDS = (Row("transformer.wpe.weight", "embedding/positions/table"), *tensors.ends("transformer.wte", "transformer.ln_f"))
BUFFERS = (f"{HIDDEN}.attn.bias", f"{HIDDEN}.attn.masked_bias")
TIED = {"lm_head.weight": "transformer.wte.weight"}
FAMILY = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *ENDS,
        *layer_rows(HIDDEN, "(h k) d -> h k d", ""),
        *tensors.fused_heads(f"{HIDDEN}.attn.c_attn", "d (+h k) -> d h k"),
    ),
    buffers=BUFFERS,
    tied=TIED,
    # reorder_and_upcast_attn is the order of a product and its precision.
    inert=("n_ctx", "reorder_and_upcast_attn", *SUMMARY),
    fixed={"scale_attn_by_inverse_layer_idx": False},
)
