"""ELECTRA: BERT whose embeddings may have another width, as discriminator (ForPreTraining) or generator (ForMaskedLM)."""

from taxonomy import spec
from taxonomy.interop import bert, tensors
from taxonomy.interop.family import PLAIN, Family, Fields, Inexpressible, need, say
from taxonomy.interop.rows import Row

_HEADS = {"ElectraForPreTraining": "detector", "ElectraForMaskedLM": "mlm"}


def section(fields: Fields) -> dict:
    found = bert.encoder(fields, 30522, d_model=256, heads=4)
    table = say(found["embedding"], d_model=fields.read("embedding_size", int, 128))
    # The generator's head has its own activation, whatever the layers have.
    detects = bert.head(fields, _HEADS) == "detector"
    head = bert.head(fields, _HEADS, fields.read("hidden_act", PLAIN, "gelu") if detects else "gelu")
    return dict(**{**found, "embedding": say("projected", base=table)}, head=head)


def hf_config(model: spec.Model) -> dict:
    if model.embedding.name != "projected":
        raise Inexpressible(f"no word for '{model.embedding.name}' as embedding (allowed: projected)")
    return dict(**bert.encoder_fields(model, _HEADS), embedding_size=need(spec.vectors(model.embedding), "d_model"))


_HEAD = "discriminator_predictions"
FAMILY = Family(
    model_type="electra",
    architecture="ElectraForPreTraining",
    prefix="electra.",
    section=section,
    hf_config=hf_config,
    rows=(
        *bert.encoder_rows("electra", "embedding/vectors"),
        *tensors.linear("electra.embeddings_project", "embedding/project"),
        *tensors.linear(f"{_HEAD}.dense", "head/dense"),
        Row(f"{_HEAD}.dense_prediction.weight", "head/kernel"),
        Row(f"{_HEAD}.dense_prediction.bias", "head/bias_1"),
        *bert.masked_rows("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    ),
    buffers=("electra.embeddings.position_ids",),
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    earlier=bert.EARLIER,
    inert=(*bert.INERT, "summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"),
    fixed=bert.FIXED,
)
