"""What LLaMA and its relatives share: rotary positions, maybe groups of heads, and a feed-forward, mostly gated."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taxonomy import spec
from taxonomy.interop import decoders
from taxonomy.interop.family import GATED, Fields, all_layers, need, say
from taxonomy.interop.rope import rope, rope_parameters
from taxonomy.registry import Component

# One kind for each layer, and the arguments of attention that belong to each kind.
Kinds = tuple[Sequence[str], Mapping[str, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What absent fields mean in a family: as many heads of keys as of queries, of equal parts, unless said otherwise.

    eps_name, act_name: what it calls these fields. words: its activations, ours in `act`. own_heads: it has fields for heads of
    keys and their width. partial: the part of every head that is rotated; None in a family that rotates whole heads.
    """

    vocab: int
    d_model: int
    context: int
    layers: int
    heads: int
    d_ff: int
    groups: int | None = None
    head_dim: int | None = None
    own_heads: bool = True
    eps: float = 1e-6
    eps_name: str = "rms_norm_eps"
    words: Mapping[str, str] = dataclasses.field(default_factory=lambda: GATED)
    act: str = "swiglu"
    act_name: str = "hidden_act"
    theta: float = 10000.0
    partial: float | None = None
    tied: bool = False
    std: float = 0.02


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the parts of a section may need to know."""

    context: int
    layers: int
    heads: decoders.Heads


def section(
    fields: Fields,
    default: Defaults,
    *,
    norm: str = "rmsnorm",
    rotary: Mapping[str, Any] | Callable[[Fields, Shape], str] | None = None,
    kinds: Callable[[Fields, Shape], Kinds] | None = None,
    wiring: str | Mapping[str, str] = "pre({}, mlp)",
    mlp: Callable[[Fields, Sequence[str]], Mapping[str, str]] | None = None,
    mlp_bias: bool = False,
    keys: Mapping[str, str] | None = None,
    head: Mapping[str, Any] | None = None,
    **attention: Any,
) -> dict[str, Any]:
    """A family's section.

    rotary: arguments of `rope`, or what gives the position. kinds: which kinds of layers there are, where they differ.
    wiring: a block, or one for every kind, with {} for its attention. mlp: the keys of other
    feed-forwards than the usual one, for layers of these kinds.
    keys: more keys of the section. head, attention: arguments of both.
    """
    sizes = decoders.sizes(fields, default.vocab, default.d_model, default.context)
    d_model, context = sizes["d_model"], sizes["context"]
    if default.own_heads:
        heads = decoders.heads(fields, d_model, default.heads, default.groups, default.head_dim)
    else:
        heads = decoders.plain_heads(fields, d_model, default.heads)
    shape = Shape(context, fields.read("num_hidden_layers", int, default.layers), heads)
    names, variants = kinds(fields, shape) if kinds else (["block"] * shape.layers, {"block": {}})
    if callable(rotary):
        position = rotary(fields, shape)
    else:
        position = rope(fields, context, heads.width, default.theta, default.partial, **(rotary or {}))
    return dict(
        **sizes,
        norm=say(norm, eps=fields.read(default.eps_name, float, default.eps)),
        position=position,
        **(keys or {}),
        **(mlp(fields, names) if mlp else dict(mlp=_mlp(fields, default, mlp_bias))),
        **decoders.layers(names, heads, variants, wiring, **attention, dropout=decoders.dropout(fields, "attention_dropout")),
        **decoders.ends(fields, default.tied, default.std, **(head or {})),
    )


def _mlp(fields: Fields, default: Defaults, bias: bool) -> str:
    return decoders.mlp(fields, default.d_ff, default.act, default.words, bias, default.act_name)


def hf_config(model: spec.Model, default: Defaults, mlp_fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The inverse, as far as it is the same for all families; `mlp_fields` are those of other feed-forwards than the usual one."""
    layers = all_layers(model)
    block, attention, mlp = layers[0]
    rotated = next((other for _, other, _ in layers if other["position"].name == "rope"), attention)
    heads = decoders.heads_fields(attention)
    return dict(
        **decoders.common_fields(model),
        **(heads if default.own_heads else {"num_attention_heads": heads["num_attention_heads"]}),
        **(decoders.mlp_fields(mlp, default.words, default.act_name) if mlp_fields is None else mlp_fields),
        **{default.eps_name: need(block["norm"], "eps")},
        rope_parameters=({} if default.partial is None else {"partial_rotary_factor": 1.0}) | rope_parameters(rotated),
        attention_dropout=attention["dropout"],
    )


def attentions(model: spec.Model) -> list[Component]:
    """The attention of every layer."""
    return [attention for _, attention, _ in all_layers(model)]


def late_windows(fields: Fields, shape: Shape) -> Kinds:
    """Windows where use_sliding_window says so, in the layers from max_window_layers on."""
    used, window = fields.read("use_sliding_window", bool, False), fields.read("sliding_window", int, 4096)
    first = fields.read("max_window_layers", int, 28)
    kinds = ["local" if used and i >= first else "full" for i in range(shape.layers)]
    return decoders.windowed(fields, kinds, window if used else None)


def late_windows_fields(model: spec.Model) -> dict[str, Any]:
    """The inverse of `late_windows`."""
    values = decoders.windowed_fields(attentions(model))
    return dict(**values, use_sliding_window=values["sliding_window"] is not None)


def early_windows(fields: Fields, shape: Shape, period: int) -> Kinds:
    """Windows in all layers but the last of every so many."""
    kinds = ["full" if (i + 1) % period == 0 else "local" for i in range(shape.layers)]
    return decoders.windowed(fields, kinds, fields.or_null("sliding_window", int, 4096))
