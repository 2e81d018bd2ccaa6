"""T5 and UL2: buckets of distances that the layers of a stack share, no biases, scores that are not scaled, and a table for all.

The second version gates the feed-forward, and has a head of its own whose input is not scaled.
"""

from collections.abc import Callable

from taxonomy import spec
from taxonomy.interop import decoders, tensors
from taxonomy.interop.family import CROSSING, GATED, PLAIN, Family, Fields, first_layer, need, say
from taxonomy.interop.rows import Row
from taxonomy.interop.tensors import LAYER, Rows

_GATED = {f"gated-{theirs}": ours for theirs, ours in GATED.items() if theirs != "gelu"}
_WORDS = {**PLAIN, "gated-gelu": "geglu(approximate=True)", **_GATED}
_HEAD = "lm_head.weight"


def section(fields: Fields) -> dict:
    layers = fields.read("num_layers", int, 6)
    reading, writing = wiring(fields, "mlp")
    return dict(
        **common(fields, d_model=512, heads=8),
        mlp=say(fields.read("feed_forward_proj", _WORDS, "relu"), d_ff=fields.read("d_ff", int, 2048)),
        blocks=dict(reading=reading, writing=writing),
        encoder=f"{layers}*reading",
        decoder=f"{fields.read('num_decoder_layers', int, layers)}*writing",
        head=_head(fields),
    )


def common(fields: Fields, d_model: int, heads: int) -> dict:
    """The keys of a section that do not depend on feed-forwards; `d_model` and `heads` are a family's defaults."""
    # Positions have no bound; this is what it was trained with.
    length = fields.read("n_positions", int, 512)
    rate = _dropout(fields)
    attention = say(
        "mha",
        heads=fields.read("num_heads", int, heads),
        head_dim=fields.read("d_kv", int, 64),
        scale=1.0,
        dropout=rate,
    )
    position = say(
        "t5_bias",
        buckets=fields.read("relative_attention_num_buckets", int, 32),
        max_distance=fields.read("relative_attention_max_distance", int, 128),
        shared=True,
    )
    return dict(
        vocab=fields.read("vocab_size", int, 32128),
        d_model=fields.read("d_model", int, d_model),
        context=length,
        inputs=length,
        norm=say("rmsnorm", eps=fields.read("layer_norm_epsilon", float, 1e-6)),
        position=position,
        embedding=say("table", dropout=rate),
        attention=attention,
        encoder_attention=say(attention, mask="full", position=say(position, bidirectional=True)),
        cross_attention=say(attention, mask="full", position="none", source="'encoder'"),
        initializer="fan_in",
    )


def wiring(fields: Fields, mlp: str) -> tuple[str, str]:
    """Blocks of the encoder and the decoder around a feed-forward of this name."""
    rate = _dropout(fields)
    blocks = (f"pre(encoder_attention, {mlp})", f"pre(attention, cross_attention, {mlp})")
    return tuple(say(block, dropout=rate) for block in blocks)


def _dropout(fields: Fields) -> float | None:
    return decoders.dropout(fields, "dropout_rate", 0.1)


def _head(fields: Fields) -> str:
    tied = fields.read("tie_word_embeddings", bool, True)
    scaled = fields.read("scale_decoder_outputs", bool, tied)
    if not scaled and _HEAD in fields.tensors:
        # Where the second field is in use, the first is written as true for every model, and the tensors tell.
        tied = False
    return say("tied" if tied else "untied", scale="d_model**-0.5" if scaled else None)


def hf_config(model: spec.Model) -> dict:
    *_, mlp = first_layer(model, "decoder", CROSSING)
    words = decoders.mlp_fields(mlp, _WORDS, "feed_forward_proj")
    return dict(
        **common_fields(model),
        n_positions=model.inputs,
        d_ff=words.pop("intermediate_size"),
        **words,
        scale_decoder_outputs=model.head.get("scale") != 1.0,
    )


def common_fields(model: spec.Model) -> dict:
    """The inverse of `common`, except for n_positions, and the numbers of layers."""
    block, attention, *_ = first_layer(model, "decoder", CROSSING)
    first_layer(model, "encoder")
    return dict(
        vocab_size=model.vocab,
        d_model=model.d_model,
        num_layers=len(model.encoder),
        num_decoder_layers=len(model.decoder),
        num_heads=need(attention, "heads"),
        d_kv=attention["head_dim"],
        relative_attention_num_buckets=need(attention["position"], "buckets"),
        relative_attention_max_distance=need(attention["position"], "max_distance"),
        layer_norm_epsilon=need(block["norm"], "eps"),
        dropout_rate=block["dropout"],
        tie_word_embeddings=model.head.name == "tied",
        is_encoder_decoder=True,
        # Another token of the family's first tokenizer.
        decoder_start_token_id=None,
    )


def _attention(theirs: str, name: str) -> Rows:
    return (
        *tensors.heads(f"{theirs}.{name}", "q", "k", "v"),
        *tensors.out(f"{theirs}.{name}.o"),
        *tensors.norm(f"{theirs}.layer_norm", f"{tensors.ATTENTION}_norm"),
    )


def _gated(config) -> bool:
    return (config.get("feed_forward_proj") or "").startswith("gated-")


def _mlp(theirs: str) -> Rows:
    dense = f"{theirs}.DenseReluDense"
    transposed = "o i -> i o"
    return (
        Row(f"{dense}.wi.weight", f"{LAYER}/mlp/up", transposed, when=lambda config: not _gated(config)),
        Row(f"{dense}.wi_0.weight", f"{LAYER}/mlp/gate", transposed),
        Row(f"{dense}.wi_1.weight", f"{LAYER}/mlp/up", transposed, when=_gated),
        Row(f"{dense}.wo.weight", f"{LAYER}/mlp/down", transposed),
    )


_TABLE, _BLOCK = "shared.weight", "block.{layer}.layer"
_DISTANCES = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
TIED = {"encoder.embed_tokens.weight": _TABLE, "decoder.embed_tokens.weight": _TABLE, _HEAD: _TABLE}


def rows(mlp: Callable[[str], Rows]) -> Rows:
    """All rows; `mlp` gives those of a decoder's feed-forward that is theirs of this name."""

    def feedforward(theirs: str) -> Rows:
        return *tensors.norm(f"{theirs}.layer_norm", f"{LAYER}/mlp_norm"), *mlp(theirs)

    return (
        Row(_TABLE, "embedding/table"),
        Row(f"encoder.{_DISTANCES}", "encoder_positions/table"),
        Row(f"decoder.{_DISTANCES}", "decoder_positions/table"),
        *tensors.norm("encoder.final_layer_norm", "encoder_norm"),
        *tensors.norm("decoder.final_layer_norm", "final_norm"),
        Row(_HEAD, "head/kernel"),
        *tensors.in_encoder((*_attention(f"encoder.{_BLOCK}.0", "SelfAttention"), *feedforward(f"encoder.{_BLOCK}.1"))),
        *_attention(f"decoder.{_BLOCK}.0", "SelfAttention"),
        *tensors.across(_attention(f"decoder.{_BLOCK}.1", "EncDecAttention")),
        *feedforward(f"decoder.{_BLOCK}.2"),
    )


FAMILY = Family(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    prefix="",
    section=section,
    hf_config=hf_config,
    rows=rows(_mlp),
    # Never used, and no longer written.
    buffers=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    tied=TIED,
    # What follows from feed_forward_proj, and rates and sizes of training.
    inert=("is_gated_act", "dense_act_fn", "initializer_factor", "classifier_dropout", "output_past"),
    fixed={"is_encoder_decoder": True, "is_decoder": False},
)
