"""BART: BERT's block in an encoder and a decoder that share a token table; each has a norm and positions, from the third row on."""

from taxonomy import spec
from taxonomy.interop import decoders, opt, tensors
from taxonomy.interop.family import CROSSING, PLAIN, Family, Fields, first_layer, need, say, spread, word
from taxonomy.interop.rows import Row


def section(fields: Fields) -> dict:
    rate = decoders.dropout(fields, "dropout", 0.1)
    length = fields.read("max_position_embeddings", int, 1024)
    activation = fields.read("activation_function", PLAIN, "gelu")
    rates = dict(bias=True, dropout=decoders.dropout(fields, "attention_dropout"))
    widths = [fields.read(f"{stack}_ffn_dim", int, 4096) for stack in ("encoder", "decoder")]
    encoder_mlp, mlp = (say(activation, d_ff=width, bias=True) for width in widths)
    own = {"encoder_mlp": encoder_mlp} if encoder_mlp != mlp else {}
    attention = say("mha", heads=fields.read("decoder_attention_heads", int, 16), **rates)
    return dict(
        vocab=fields.read("vocab_size", int, 50265),
        d_model=fields.read("d_model", int, 1024),
        context=length,
        inputs=length,
        norm="layernorm(eps=1e-5)",
        position="learned(length=context + 2, offset=2)",
        embedding=say(
            "table",
            scale="d_model**0.5" if fields.read("scale_embedding", bool, False) else None,
            norm="norm",
            dropout=rate,
        ),
        attention=attention,
        encoder_attention=say("mha", heads=fields.read("encoder_attention_heads", int, 16), **rates, mask="full"),
        cross_attention=say(attention, mask="full", source="'encoder'"),
        mlp=mlp,
        **own,
        blocks=dict(
            reading=say(f"post(encoder_attention, {'encoder_mlp' if own else 'mlp'})", dropout=rate),
            writing=say("post(attention, cross_attention, mlp)", dropout=rate),
        ),
        encoder=f"{fields.read('encoder_layers', int, 12)}*reading",
        decoder=f"{fields.read('decoder_layers', int, 12)}*writing",
        head="tied",
        initializer=say("normal", std=fields.read("init_std", float, 0.02)),
    )


def hf_config(model: spec.Model) -> dict:
    block, attention, _, mlp = first_layer(model, "decoder", CROSSING)
    _, encoder_attention, encoder_mlp = first_layer(model, "encoder")
    return dict(
        vocab_size=model.vocab,
        d_model=model.d_model,
        max_position_embeddings=model.context,
        encoder_layers=len(model.encoder),
        decoder_layers=len(model.decoder),
        encoder_attention_heads=need(encoder_attention, "heads"),
        decoder_attention_heads=need(attention, "heads"),
        encoder_ffn_dim=need(encoder_mlp, "d_ff"),
        decoder_ffn_dim=need(mlp, "d_ff"),
        activation_function=word(PLAIN, mlp.name),
        scale_embedding=model.embedding.get("scale") != 1.0,
        dropout=block["dropout"],
        attention_dropout=attention["dropout"],
        init_std=spread(model),
        is_encoder_decoder=True,
        # More tokens of the family's first tokenizer.
        decoder_start_token_id=None,
        forced_eos_token_id=None,
    )


_DECODER, _ENCODER, _TABLE = "model.decoder", "model.encoder", "model.shared.weight"
_HIDDEN = f"{_DECODER}.layers.{{layer}}"
FAMILY = Family(
    model_type="bart",
    architecture="BartForConditionalGeneration",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=(
        Row(_TABLE, "embedding/table"),
        Row(f"{_ENCODER}.embed_positions.weight", "embedding/encoder_positions/table"),
        Row(f"{_DECODER}.embed_positions.weight", "embedding/positions/table"),
        *tensors.norm(f"{_ENCODER}.layernorm_embedding", "embedding/encoder_table_norm"),
        *tensors.norm(f"{_DECODER}.layernorm_embedding", "embedding/table_norm"),
        *tensors.in_encoder(opt.layer_rows(f"{_ENCODER}.layers.{{layer}}")),
        *opt.layer_rows(_HIDDEN),
        *tensors.across(
            (
                *tensors.heads(f"{_HIDDEN}.encoder_attn"),
                *tensors.out(f"{_HIDDEN}.encoder_attn.out_proj"),
                *tensors.norm(f"{_HIDDEN}.encoder_attn_layer_norm", f"{tensors.ATTENTION}_norm"),
            )
        ),
    ),
    # Added to the logits, and never trained.
    zeros=("final_logits_bias",),
    tied={
        f"{_ENCODER}.embed_tokens.weight": _TABLE,
        f"{_DECODER}.embed_tokens.weight": _TABLE,
        "lm_head.weight": _TABLE,
    },
    # Rates that belong to other heads or never applied, and other names of fields above.
    inert=("activation_dropout", "classifier_dropout", "classif_dropout", "num_hidden_layers", "output_past"),
    fixed={
        "is_encoder_decoder": True,
        "is_decoder": False,
        # Without it each stack and the head have a table of their own.
        "tie_word_embeddings": True,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "normalize_before": False,
        "normalize_embedding": True,
        "add_final_layer_norm": False,
        "add_bias_logits": False,
        "static_position_embeddings": False,
        "extra_pos_embeddings": 2,
    },
)
