"""XLNet: an encoder with relative positions of its own in every layer, whose tokens are predicted in any order."""

from taxonomy import spec
from taxonomy.interop import decoders, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer, need, say, spread, word
from taxonomy.interop.rows import Row
from taxonomy.interop.tensors import ATTENTION, LAYER


def section(fields: Fields) -> dict:
    d_model, heads = fields.read("d_model", int, 1024), fields.read("n_head", int, 16)
    width = fields.read("d_head", int, d_model // heads)
    rate = decoders.dropout(fields, "dropout", 0.1)
    return dict(
        vocab=fields.read("vocab_size", int, 32000),
        d_model=d_model,
        # They state none: tokens of a row in pre-training.
        context=512,
        norm=say("layernorm", eps=fields.read("layer_norm_eps", float, 1e-12)),
        position="transformer_xl(parts=True)",
        mask="permutation",
        embedding=say("table", dropout=rate),
        attention=decoders.Heads(heads, heads, width, d_model).say(dropout=rate),
        mlp=say(fields.read("ff_activation", PLAIN, "gelu"), d_ff=fields.read("d_inner", int, 4096), bias=True),
        blocks=dict(block=say("post(attention, mlp)", dropout=rate)),
        encoder=f"{fields.read('n_layer', int, 24)}*block",
        head="tied(bias=True)",
        initializer=say("normal", std=fields.read("initializer_range", float, 0.02)),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, mlp = first_layer(model, "encoder")
    return dict(
        vocab_size=model.vocab,
        d_model=model.d_model,
        n_layer=len(model.encoder),
        n_head=need(attention, "heads"),
        d_head=attention["head_dim"],
        d_inner=need(mlp, "d_ff"),
        ff_activation=word(PLAIN, mlp.name),
        layer_norm_eps=need(block["norm"], "eps"),
        dropout=block["dropout"],
        initializer_range=spread(model),
        # Nothing is kept of earlier text.
        mem_len=None,
        use_mems_eval=False,
    )


_LAYER = "transformer.layer.{layer}"
_ATTENTION, _POSITION = f"{_LAYER}.rel_attn", f"{ATTENTION}/position"
_TABLE = "transformer.word_embedding.weight"
FAMILY = Family(
    model_type="xlnet",
    architecture="XLNetLMHeadModel",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        Row(_TABLE, "embedding/table"),
        Row("transformer.mask_emb", "query/vector"),
        Row("lm_loss.bias", "head/bias_V"),
        *tensors.in_encoder(
            (
                Row(f"{_ATTENTION}.q", f"{ATTENTION}/query"),
                Row(f"{_ATTENTION}.k", f"{ATTENTION}/key"),
                Row(f"{_ATTENTION}.v", f"{ATTENTION}/value"),
                Row(f"{_ATTENTION}.o", f"{ATTENTION}/out", "d h k -> h k d"),
                Row(f"{_ATTENTION}.r", f"{_POSITION}/kernel"),
                Row(f"{_ATTENTION}.r_w_bias", f"{_POSITION}/content_bias"),
                Row(f"{_ATTENTION}.r_r_bias", f"{_POSITION}/position_bias"),
                Row(f"{_ATTENTION}.r_s_bias", f"{_POSITION}/part_bias"),
                Row(f"{_ATTENTION}.seg_embed", f"{_POSITION}/parts"),
                *tensors.norm(f"{_ATTENTION}.layer_norm", f"{ATTENTION}_norm"),
                *tensors.linear(f"{_LAYER}.ff.layer_1", f"{LAYER}/mlp/up"),
                *tensors.linear(f"{_LAYER}.ff.layer_2", f"{LAYER}/mlp/down"),
                *tensors.norm(f"{_LAYER}.ff.layer_norm", f"{LAYER}/mlp_norm"),
            )
        ),
    ),
    tied={"lm_loss.weight": _TABLE},
    # Lengths of what is kept of earlier text, which changes nothing where there is none, and what other heads read.
    inert=(
        "mem_len",
        "reuse_len",
        "use_mems_eval",
        "use_mems_train",
        "summary_activation",
        "summary_last_dropout",
        "summary_type",
        "summary_use_proj",
        "start_n_top",
        "end_n_top",
        "output_past",
    ),
    fixed={
        "tie_word_embeddings": True,
        # From left to right; with a bound on distances; the second half of a batch from right to left; one position for all layers.
        "attn_type": "bi",
        "clamp_len": -1,
        "bi_data": False,
        "same_length": False,
        "untie_r": True,
    },
)
