"""RoBERTa: BERT whose positions begin after the padding token's."""

from collections.abc import Mapping

from taxonomy import spec
from taxonomy.interop import bert
from taxonomy.interop.family import Family, Fields, Inexpressible, need, say

_HEADS = {"RobertaForMaskedLM": "mlm", "RobertaForSequenceClassification": "classifier"}


def section(fields: Fields, words: Mapping[str, str] = _HEADS, vocab: int = 50265) -> dict:
    # They also count positions without padding, which is the same wherever padding ends a row.
    first = fields.read("pad_token_id", int, 1) + 1
    found = bert.encoder(fields, vocab, say("learned", length=f"context + {first}", offset=first))
    return {**found, "context": found["context"] - first, "head": bert.head(fields, words)}


def hf_config(model: spec.Model, words: Mapping[str, str] = _HEADS) -> dict:
    values = bert.encoder_fields(model, words)
    first = need(spec.vectors(model.embedding)["position"], "offset")
    if first < 1:
        raise Inexpressible("positions that begin with the first row of their table")
    return dict(**{**values, "max_position_embeddings": model.context + first}, pad_token_id=first - 1)


def tied(base: str) -> dict[str, str]:
    """What is stored twice by a head on a base model of this name."""
    return {"lm_head.decoder.weight": f"{base}.embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"}


HEAD_ROWS = (
    *bert.masked_rows("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    *bert.classifier_rows("classifier.dense", "classifier.out_proj"),
)
FAMILY = Family(
    model_type="roberta",
    architecture="RobertaForMaskedLM",
    prefix="roberta.",
    section=section,
    hf_config=hf_config,
    rows=(*bert.encoder_rows("roberta"), *HEAD_ROWS),
    # A pooler that no head reads.
    buffers=("roberta.embeddings.position_ids", "roberta.pooler.dense.weight", "roberta.pooler.dense.bias"),
    tied=tied("roberta"),
    earlier=bert.EARLIER,
    inert=bert.INERT,
    fixed=bert.FIXED,
)
