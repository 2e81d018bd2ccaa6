"""Switch Transformers: T5 with experts in every so many layers, which take so many tokens of a row and no more.

Padding takes places of experts there; behind the tokens it takes none from them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from taxonomy import spec
from taxonomy.interop import decoders, t5
from taxonomy.interop.family import CROSSING, PLAIN, USUAL, Family, Fields, Inexpressible, all_layers, need, say
from taxonomy.interop.rows import Row
from taxonomy.interop.tensors import LAYER, Rows

_SUBLAYERS = {"dense": "mlp", "sparse": "moe"}


def section(fields: Fields) -> dict:
    act, width = fields.read("dense_act_fn", PLAIN, "relu"), fields.read("d_ff", int, 2048)
    mlp = say(act, d_ff=width)
    router = say(
        "softmax",
        bias=fields.read("router_bias", bool, False) or None,
        jitter=fields.read("router_jitter_noise", float, 0.01) or None,
        balance=fields.read("router_aux_loss_coef", float, 0.001) or None,
        z=fields.read("router_z_loss_coef", float, 0.001) or None,
    )
    slots = fields.read("expert_capacity", int, 64)
    moe = say("moe", experts=fields.read("num_experts", int, 8), top_k=1, router=router, expert=mlp, slots=slots)
    encoder = fields.read("num_layers", int, 12)
    kinds = dict(encoder=_kinds(fields, "encoder", encoder))
    kinds["decoder"] = _kinds(fields, "decoder", fields.read("num_decoder_layers", int, encoder))
    used = {name: said for name, said in (("dense", mlp), ("sparse", moe)) if name in kinds["encoder"] + kinds["decoder"]}
    blocks = {}
    for kind in used:
        blocks[f"{kind}_reading"], blocks[f"{kind}_writing"] = t5.wiring(fields, _SUBLAYERS[kind])
    stacks = {
        name: decoders.algebra([f"{kind}_{'reading' if name == 'encoder' else 'writing'}" for kind in of_stack])
        for name, of_stack in kinds.items()
    }
    return dict(
        **t5.common(fields, d_model=768, heads=12),
        **{_SUBLAYERS[kind]: said for kind, said in used.items()},
        blocks={name: block for name, block in blocks.items() if any(name in algebra for algebra in stacks.values())},
        **stacks,
        head="tied(scale=d_model**-0.5)" if fields.read("tie_word_embeddings", bool, True) else "untied",
    )


def _kinds(fields: Fields, stack: str, layers: int) -> list[str]:
    """The kind of every layer. Without a layer of experts they count one in a stack of several all the same."""
    wanted = fields.read(f"num_sparse_{stack}_layers", int, 3)
    step = fields.read(f"{stack}_sparse_step", int, layers // wanted if wanted > 0 else layers)
    return ["sparse" if step == 1 or (step > 1 and i % step == 1) else "dense" for i in range(layers)]


def _step(parts: Sequence) -> int:
    """The inverse for a stack's feed-forwards: from one layer of experts to the next, 0 where there are none."""
    sparse = [i for i, part in enumerate(parts) if part.name == "moe"]
    if not sparse:
        return 0
    return 1 if sparse[0] == 0 else sparse[1] - 1 if len(sparse) > 1 else len(parts)


def hf_config(model: spec.Model) -> dict:
    stacks = dict(encoder=all_layers(model, "encoder", USUAL), decoder=all_layers(model, "decoder", CROSSING))
    parts = {name: [layer[-1] for layer in layers] for name, layers in stacks.items()}
    moe = next((part for part in parts["encoder"] + parts["decoder"] if part.name == "moe"), None)
    if moe is None:
        raise Inexpressible("there are no experts")
    words = decoders.mlp_fields(need(moe, "expert"), PLAIN, "dense_act_fn")
    router = moe["router"]
    fields = dict(
        **t5.common_fields(model),
        d_ff=words.pop("intermediate_size"),
        **words,
        num_experts=moe["experts"],
        expert_capacity=moe["slots"],
        router_bias=router.get("bias", False),
        router_jitter_noise=router.get("jitter", 0.0),
        router_aux_loss_coef=router.get("balance", 0.0),
        router_z_loss_coef=router.get("z", 0.0),
    )
    for name, of_stack in parts.items():
        fields[f"num_sparse_{name}_layers"] = sum(part.name == "moe" for part in of_stack)
        fields[f"{name}_sparse_step"] = _step(of_stack)
    return fields


def _mlp(theirs: str) -> Rows:
    ours = f"{LAYER}/mlp"
    return (
        Row(f"{theirs}.mlp.wi.weight", f"{ours}/up", "o i -> i o"),
        Row(f"{theirs}.mlp.wo.weight", f"{ours}/down", "o i -> i o"),
        Row(f"{theirs}.mlp.router.classifier.weight", f"{ours}/router/kernel", "e d -> d e"),
        Row(f"{theirs}.mlp.router.classifier.bias", f"{ours}/router/bias_E"),
        Row(f"{theirs}.mlp.experts.expert_{{e}}.wi.weight", f"{ours}/experts/up", "e o i -> e i o"),
        Row(f"{theirs}.mlp.experts.expert_{{e}}.wo.weight", f"{ours}/experts/down", "e o i -> e i o"),
    )


def _doubles(values: Mapping[str, Any]) -> dict[str, str]:
    """Without a tied head they tie no table at all."""
    return {} if values["tie_word_embeddings"] else {name: of for name, of in t5.TIED.items() if "embed_tokens" in name}


FAMILY = Family(
    model_type="switch_transformers",
    architecture="SwitchTransformersForConditionalGeneration",
    prefix="",
    section=section,
    hf_config=hf_config,
    rows=t5.rows(_mlp),
    tied=t5.TIED,
    doubles=_doubles,
    # Words of old configurations, and what to return; padding is routed whatever is said.
    inert="""
        feed_forward_proj is_gated_act initializer_factor output_past router_type add_router_probs router_ignore_padding_tokens
    """.split(),  # noqa: SIM905
    fixed={"is_encoder_decoder": True, "is_decoder": False, "router_dtype": "float32", "batch_prioritized_routing": False},
)
