"""Longformer: RoBERTa with a window around each token, and global tokens with projections of their own."""

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop import bert, decoders, roberta, tensors
from taxonomy.interop.family import Family, Fields, Inexpressible, all_layers, need, say

_HEADS = {"LongformerForMaskedLM": "mlm", "LongformerForSequenceClassification": "classifier"}


def section(fields: Fields) -> dict:
    found = roberta.section(fields, _HEADS, 30522)
    kinds = {f"sides_{sides}": dict(mask=say("around", sides=sides)) for sides in _sides(fields)}
    layers = decoders.layers(
        [f"sides_{sides}" for sides in _sides(fields)],
        decoders.plain_heads(fields, found["d_model"], 12),
        kinds,
        found["blocks"]["block"].replace("attention", "{}"),
        "encoder",
        bias=True,
        dropout=decoders.dropout(fields, "attention_probs_dropout_prob", 0.1),
        global_projections=True,
    )
    return {**found, **layers}


def _sides(fields: Fields) -> list[int]:
    """Tokens on each side in every layer, from one width of the window for all of them or a list."""
    count, given = fields.read("num_hidden_layers", int, 12), fields.values.get("attention_window")
    widths = (
        fields.read("attention_window", list) if isinstance(given, list) else [fields.read("attention_window", int, 512)] * count
    )
    if len(widths) != count or any(type(width) is not int or width < 2 or width % 2 for width in widths):
        raise UserError(f"{fields.source}: attention_window: cannot be {given!r} (allowed: an even number, or {count} of them)")
    return [width // 2 for width in widths]


def hf_config(model: spec.Model) -> dict:
    layers = all_layers(model, "encoder")
    if not all(attention["global_projections"] for _, attention, _ in layers):
        raise Inexpressible("attention without projections for global tokens")
    widths = [2 * need(attention["mask"], "sides") for _, attention, _ in layers]
    return dict(**roberta.hf_config(model, _HEADS), attention_window=widths)


FAMILY = Family(
    model_type="longformer",
    architecture="LongformerForMaskedLM",
    prefix="longformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *bert.encoder_rows("longformer"),
        *tensors.in_encoder(
            tensors.heads(
                "longformer.encoder.layer.{layer}.attention.self", "query_global", "key_global", "value_global", "global_"
            )
        ),
        *roberta.HEAD_ROWS,
    ),
    # A pooler that no head reads.
    buffers=("longformer.embeddings.position_ids", "longformer.pooler.dense.weight", "longformer.pooler.dense.bias"),
    tied=roberta.tied("longformer"),
    earlier=bert.EARLIER,
    inert=(*bert.INERT, "onnx_export", "ignore_attention_mask"),
    fixed=bert.FIXED,
)
