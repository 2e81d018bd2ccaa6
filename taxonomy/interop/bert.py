"""BERT: an encoder with learned positions and norms after every sublayer, whose head says masked tokens, classes or numbers."""

from collections.abc import Mapping

from taxonomy import spec
from taxonomy.interop import decoders, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, first_layer, need, say, word
from taxonomy.interop.rows import Row
from taxonomy.interop.tensors import ATTENTION, LAYER, Rows
from taxonomy.registry import Component

_HEADS = {"BertForMaskedLM": "mlm", "BertForPreTraining": "mlm", "BertForSequenceClassification": "classifier"}


def encoder(fields: Fields, vocab: int, position: str = "learned", d_model: int = 768, heads: int = 12) -> dict:
    """A section without a head, which later families share; the numbers are their defaults."""
    sizes = decoders.sizes(fields, vocab, d_model, 512)
    rate = decoders.dropout(fields, "hidden_dropout_prob", 0.1)
    attention = decoders.plain_heads(fields, sizes["d_model"], heads)
    return dict(
        **sizes,
        norm=say("layernorm", eps=fields.read("layer_norm_eps", float, 1e-12)),
        position=position,
        embedding=say("table", types=fields.read("type_vocab_size", int, 2), norm="norm", dropout=rate),
        attention=attention.say(bias=True, dropout=decoders.dropout(fields, "attention_probs_dropout_prob", 0.1)),
        mlp=decoders.mlp(fields, 4 * d_model, "gelu", bias=True),
        blocks=dict(block=say("post(attention, mlp)", dropout=rate)),
        encoder=f"{fields.read('num_hidden_layers', int, 12)}*block",
        initializer=say("normal", std=fields.read("initializer_range", float, 0.02)),
    )


def head(fields: Fields, words: Mapping[str, str], activation: str = "gelu") -> str:
    """The head that `architectures` names among these words, the first by default."""
    [kind] = decoders.listed(fields, "architectures", words, [next(iter(words.values()))])
    if kind == "classifier":
        labels = fields.read("id2label", dict, None) or {}
        count = len(labels) or fields.read("num_labels", int, 2)
        # Without a word about it, one label is a number.
        problem = fields.read("problem_type", str, "regression" if count == 1 else None)
        return say("regression", values=count) if problem == "regression" else say(kind, classes=count)
    return say(kind, activation=None if activation == "gelu" else repr(activation))


def section(fields: Fields) -> dict:
    return dict(**encoder(fields, 30522), head=head(fields, _HEADS, fields.read("hidden_act", PLAIN, "gelu")))


def encoder_fields(model: spec.Model, words: Mapping[str, str]) -> dict:
    """The inverse of both."""
    block, attention, mlp = first_layer(model, "encoder")
    return dict(
        **{**decoders.common_fields(model), "tie_word_embeddings": True},
        **decoders.mlp_fields(mlp),
        architectures=[word(words, "classifier" if model.head.name == "regression" else model.head.name)],
        num_attention_heads=need(attention, "heads"),
        layer_norm_eps=need(block["norm"], "eps"),
        type_vocab_size=need(spec.vectors(model.embedding), "types"),
        hidden_dropout_prob=block["dropout"],
        attention_probs_dropout_prob=attention["dropout"],
        **_labels(model.head),
    )


def _labels(head: Component) -> dict:
    count = head.get("classes") or head.get("values")
    if not count:
        return {}
    names = {str(i): f"LABEL_{i}" for i in range(count)}
    problem = "regression" if head.name == "regression" else "single_label_classification"
    return dict(id2label=names, label2id={name: int(i) for i, name in names.items()}, problem_type=problem)


def hf_config(model: spec.Model) -> dict:
    return encoder_fields(model, _HEADS)


def encoder_rows(base: str, vectors: str = "embedding") -> Rows:
    """The rows of a base model of this name without its head; `vectors` is our name for the embeddings."""
    embeddings, layer = f"{base}.embeddings", f"{base}.encoder.layer.{{layer}}"
    return (
        Row(f"{embeddings}.word_embeddings.weight", f"{vectors}/table"),
        Row(f"{embeddings}.position_embeddings.weight", f"{vectors}/positions/table"),
        Row(f"{embeddings}.token_type_embeddings.weight", f"{vectors}/types"),
        *tensors.norm(f"{embeddings}.LayerNorm", f"{vectors}/table_norm"),
        *tensors.in_encoder(
            (
                *tensors.heads(f"{layer}.attention.self", "query", "key", "value"),
                *tensors.out(f"{layer}.attention.output.dense"),
                *tensors.norm(f"{layer}.attention.output.LayerNorm", f"{ATTENTION}_norm"),
                *tensors.linear(f"{layer}.intermediate.dense", f"{LAYER}/mlp/up"),
                *tensors.linear(f"{layer}.output.dense", f"{LAYER}/mlp/down"),
                *tensors.norm(f"{layer}.output.LayerNorm", f"{LAYER}/mlp_norm"),
            )
        ),
    )


def masked_rows(transform: str, norm: str, bias: str) -> Rows:
    """The rows of a head that says masked tokens."""
    return (*tensors.linear(transform, "head/transform"), *tensors.norm(norm, "head/norm"), Row(bias, "head/bias_V"))


def classifier_rows(pooler: str, classes: str) -> Rows:
    """The rows of a head that says classes."""
    return (
        *tensors.linear(pooler, "head/pooler"),
        Row(f"{classes}.weight", "head/kernel"),
        Row(f"{classes}.bias", "head/bias_C"),
    )


# What old files call the parameters of norms.
EARLIER = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
INERT = ("classifier_dropout", "_num_labels", "output_past")
FIXED = {"is_decoder": False, "tie_word_embeddings": True, "position_embedding_type": "absolute"}
_HEAD = "cls.predictions"
FAMILY = Family(
    model_type="bert",
    architecture="BertForMaskedLM",
    prefix="bert.",
    section=section,
    hf_config=hf_config,
    rows=(
        *encoder_rows("bert"),
        *masked_rows(f"{_HEAD}.transform.dense", f"{_HEAD}.transform.LayerNorm", f"{_HEAD}.bias"),
        *classifier_rows("bert.pooler.dense", "classifier"),
    ),
    # A pooler that the head does not read, and what reads it to tell whether two texts follow one another.
    buffers=(
        "bert.embeddings.position_ids",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    ),
    tied={f"{_HEAD}.decoder.weight": "bert.embeddings.word_embeddings.weight", f"{_HEAD}.decoder.bias": f"{_HEAD}.bias"},
    earlier=EARLIER,
    inert=(
        *INERT,
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ),
    fixed=FIXED,
)
