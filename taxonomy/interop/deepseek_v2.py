"""DeepSeek-V2: latent attention, and experts chosen by a softmax among a few groups of them."""

from taxonomy import spec
from taxonomy.interop import latent, tensors
from taxonomy.interop.family import Family, Fields, say

_DEFAULTS = latent.Defaults(
    vocab=102400,
    d_model=4096,
    context=2048,
    layers=32,
    heads=32,
    d_ff=11008,
    dense=0,
    experts=64,
    top_k=None,
    d_ff_expert=1407,
    shared=2,
    router_scale=1.0,
)
_METHODS = {"greedy": False, "group_limited_greedy": True}


def _router(fields: Fields, scale: float) -> str:
    grouped, groups = fields.read("topk_method", _METHODS, False), latent.groups(fields, None, None)
    return say("softmax", scale=scale, **(groups if grouped else {}))


def section(fields: Fields) -> dict:
    return latent.section(fields, _DEFAULTS, _router, lambda fields: True)


def hf_config(model: spec.Model) -> dict:
    values, router = latent.hf_config(model)
    grouped = router is not None and router.get("groups", 1) > 1
    return values | latent.groups_fields(router) | dict(topk_method="group_limited_greedy" if grouped else "greedy")


FAMILY = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    prefix="model.",
    section=section,
    hf_config=hf_config,
    rows=latent.ROWS,
    buffers=tensors.ROPE_BUFFERS,
    tied=tensors.MODEL_TIED,
    inert=tuple(latent.INERT),
    fixed={**latent.FIXED, "norm_topk_prob": False, "scoring_func": "softmax"},
)
