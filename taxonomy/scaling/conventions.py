"""How much a token costs to train, and how many parameters a model has, by the names under which the literature counts.

Fits answer in the count that they were given, and the counts of small models differ by tens of percent.
"""

from collections.abc import Mapping
from typing import Any

from taxonomy import spec
from taxonomy.scaling import accounting


def training_flops(model: Mapping[str, Any] | spec.Model, context: int | None = None) -> dict[str, float]:
    """FLOPs per trained token of a decoder in documents of `context` tokens, by convention.

    6n: 6 N, with all active parameters. 6n_without_embeddings: without tables (Kaplan et al. 2020, arXiv:2001.08361).
    6n_12lhqt: 6 N + 12 L H Q T, all pairs, where N leaves out what is looked up (arXiv:2204.02311, appendix B).
    appendix_f: all products and pairs, embedding and logits as products, 3 a score for softmax (arXiv:2203.15556, appendix F).
    exact: all products, over the pairs that masks allow.
    """
    model = model if isinstance(model, spec.Model) else spec.model(model)
    context = context or model.context
    costs = accounting.count(model, context)
    unmasked = accounting.forward_flops_per_token(model, context, masked=False)
    pairs = unmasked - (costs.flops_per_token - costs.attention_flops_per_token)
    found = parameters(model)
    return {
        "6n": costs.six_n,
        "6n_without_embeddings": costs.six_n_without_embeddings,
        "6n_12lhqt": 6 * found["body_head"] + 3 * pairs,
        "appendix_f": 3 * (unmasked + 2 * model.vocab * model.d_model + 3 * context * _heads(model)),
        "exact": accounting.train_flops_per_token(model, context),
    }


def parameters(model: Mapping[str, Any] | spec.Model) -> dict[str, int]:
    """Active parameters: of the body, of body and head (a tied table is its head), and all."""
    model = model if isinstance(model, spec.Model) else spec.model(model)
    costs = accounting.count(model)
    own = sum(one.value.size for _, one in accounting.declarations(model.alone) if one.role == "output")
    body = costs.active_parameters - costs.embedding_parameters - own
    head = own or spec.vectors(model.embedding)["width"] * model.vocab
    return {"body": body, "body_head": body + head, "total": costs.active_parameters}


def _heads(model: spec.Model) -> int:
    """Heads of all layers together."""
    parts = [part for layers in model.stacks.values() for block in layers for part in model.block(block).walk()]
    return sum(part["heads"] for part in parts if part.kind == "attention")
