"""DeepSeek-V3: DeepSeek-V2 whose experts are chosen by sigmoids, with a bias that balances them."""

from taxonomy import spec
from taxonomy.interop import latent, tensors
from taxonomy.interop.family import Family, Fields, say

_DEFAULTS = latent.Defaults(
    vocab=129280,
    d_model=7168,
    context=4096,
    layers=61,
    heads=128,
    d_ff=18432,
    dense=3,
    experts=256,
    top_k=8,
    d_ff_expert=2048,
    shared=1,
    router_scale=2.5,
)


def _router(fields: Fields, scale: float) -> str:
    renormalize = fields.read("norm_topk_prob", bool, True) or None
    # How fast the bias moves while training is not said.
    return say("sigmoid", renormalize=renormalize, scale=scale, **latent.groups(fields, 8, 4, 2), bias_rate=0.001)


def section(fields: Fields) -> dict:
    return latent.section(fields, _DEFAULTS, _router, lambda fields: fields.read("rope_interleave", bool, True))


def hf_config(model: spec.Model) -> dict:
    values, router = latent.hf_config(model)
    position = next(part for part in model.components() if part.kind == "position")
    values |= latent.groups_fields(router) | dict(rope_interleave=position.get("interleaved", True))
    return values if router is None else values | dict(norm_topk_prob=router.get("renormalize", False))


FAMILY = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=latent.ROWS,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=tuple(latent.INERT),
    fixed={**latent.FIXED, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
)
