"""What the sections of decoders share: the fields hidden_size, num_attention_heads and so on, and kinds of layers in turn.

Each reading function has its inverse, whose name ends in `_fields`.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop.family import PLAIN, Fields, kv_heads, need, say, spread, word
from taxonomy.registry import Component


def sizes(fields: Fields, vocab: int, d_model: int, context: int) -> dict[str, Any]:
    """The scalars of a section."""
    return dict(
        vocab=fields.read("vocab_size", int, vocab),
        d_model=fields.read("hidden_size", int, d_model),
        context=fields.read("max_position_embeddings", int, context),
    )


def ends(fields: Fields, tied: bool = False, std: float = 0.02, **head: Any) -> dict[str, Any]:
    """The head, with these arguments, and the initializer."""
    return dict(
        head=say("tied" if fields.read("tie_word_embeddings", bool, tied) else "untied", **head),
        initializer=say("normal", std=fields.read("initializer_range", float, std)),
    )


def common_fields(model: spec.Model) -> dict[str, Any]:
    """The inverse of both, and the number of layers in the only stack."""
    *_, layers = model.stacks.values()
    return dict(
        vocab_size=model.vocab,
        hidden_size=model.d_model,
        max_position_embeddings=model.context,
        num_hidden_layers=len(layers),
        tie_word_embeddings=model.head.name == "tied",
        initializer_range=spread(model),
    )


@dataclasses.dataclass(frozen=True)
class Heads:
    """Numbers of attention. `width` is that of a head."""

    heads: int
    groups: int
    width: int
    d_model: int

    def say(self, **arguments: Any) -> str:
        """An attention of ours. False is not written, except for an `out_bias` that differs from the bias."""
        own_width = self.width if self.heads * self.width != self.d_model else None
        kind, groups = "gqa", self.groups
        if groups in (1, self.heads):
            kind, groups = "mha" if groups == self.heads else "mqa", None
        idle = {name for name, value in arguments.items() if value is False and name != "out_bias"}
        if arguments.get("out_bias") == arguments.get("bias", False):
            idle.add("out_bias")
        arguments = {name: value for name, value in arguments.items() if name not in idle}
        return say(kind, heads=self.heads, kv_heads=groups, head_dim=own_width, **arguments)


def heads(fields: Fields, d_model: int, heads: int, groups: int | None = None, width: int | None = None) -> Heads:
    """As stated by num_attention_heads, num_key_value_heads and head_dim; without defaults as many of keys, of equal parts."""
    heads = fields.read("num_attention_heads", int, heads)
    return Heads(
        heads,
        fields.read("num_key_value_heads", int, groups or heads),
        fields.read("head_dim", int, width or d_model // heads),
        d_model,
    )


def plain_heads(fields: Fields, d_model: int, heads: int) -> Heads:
    """The same for a family without fields for heads of keys and their width."""
    heads = fields.read("num_attention_heads", int, heads)
    return Heads(heads, heads, d_model // heads, d_model)


def heads_fields(attention: Component) -> dict[str, Any]:
    return dict(
        num_attention_heads=need(attention, "heads"),
        num_key_value_heads=kv_heads(attention),
        head_dim=attention["head_dim"],
    )


def mlp(fields: Fields, d_ff: int, act: str, words: Mapping[str, str] = PLAIN, bias: bool = False, name: str = "hidden_act") -> str:
    """A feed-forward from intermediate_size and the field of that name; `act` is our default."""
    return say(fields.read(name, words, act), d_ff=fields.read("intermediate_size", int, d_ff), bias=bias or None)


def mlp_fields(mlp: Component, words: Mapping[str, str] = PLAIN, name: str = "hidden_act") -> dict[str, Any]:
    activation = mlp.name + ("(approximate=True)" if mlp.get("approximate") else "")
    return {"intermediate_size": need(mlp, "d_ff"), name: word(words, activation)}


def dropout(fields: Fields, name: str, default: float = 0.0) -> float | None:
    """A rate, None where there is no dropout."""
    return fields.read(name, float, default) or None


def mask(fields: Fields, window: int | None = None) -> dict[str, str]:
    """The key `mask` of a family whose layers all look back sliding_window tokens, or any distance when that is null."""
    window = fields.or_null("sliding_window", int, window)
    return {} if window is None else dict(mask=say("local", window=window))


LAYER_TYPES = {"full_attention": "full", "sliding_attention": "local"}


def listed(fields: Fields, name: str, words: Mapping[Any, str], default: Sequence[str]) -> list[str]:
    """What a list with a word for each layer says, in our words; `default` is given in those."""
    given = fields.read(name, list, None)
    if given is None:
        return list(default)
    strange = [item for item in given if type(item) not in (str, int) or item not in words]
    if strange or len(given) != len(default):
        allowed = f"{len(default)} of {', '.join(map(repr, words))}"
        raise UserError(f"{fields.source}: {name}: cannot be {strange[0] if strange else given!r} (allowed: {allowed})")
    return [words[item] for item in given]


def windowed(fields: Fields, default: Sequence[str], window: int | None) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The kinds of layers that layer_types lists, `full` or `local`, and the arguments of attention in each."""
    kinds = listed(fields, "layer_types", LAYER_TYPES, default)
    if window is None and "local" in kinds:
        raise UserError(f"{fields.source}: layer_types has 'sliding_attention', but no sliding_window is in use")
    return kinds, {"full": {}, "local": dict(mask=say("local", window=window))}


def windowed_fields(attentions: Sequence[Component]) -> dict[str, Any]:
    """The inverse of `windowed`, with the window."""
    widths = [attention["mask"].get("window") for attention in attentions]
    return dict(
        layer_types=["full_attention" if width is None else "sliding_attention" for width in widths],
        sliding_window=next((width for width in widths if width is not None), None),
    )


def layers(
    kinds: Sequence[str],
    heads: Heads,
    variants: Mapping[str, Mapping],
    wiring: str | Mapping[str, str],
    stack: str = "decoder",
    **arguments: Any,
) -> dict[str, Any]:
    """The keys `attention`, `blocks` and the stack's own for layers of these kinds, which differ in arguments of attention.

    `wiring` is a block with {} for its attention, such as "pre({}, mlp)", or one for every kind.
    """
    several = list(dict.fromkeys(kinds))
    wirings = {kind: wiring if isinstance(wiring, str) else wiring[kind] for kind in several}
    if len(several) == 1:
        attention = {"attention": heads.say(**arguments, **variants[several[0]])}
        return dict(**attention, blocks=dict(block=wirings[several[0]].format("attention")), **{stack: f"{len(kinds)}*block"})
    # The first kind has the model's plain name, as others take the numbers of the model's attention from it.
    said, names = {kind: heads.say(**{**arguments, **variants[kind]}) for kind in several}, {}
    for kind, sentence in said.items():
        names.setdefault(sentence, f"{kind}_attention" if names else "attention")
    return {
        **{name: sentence for sentence, name in names.items()},
        "blocks": {kind: wirings[kind].format(names[said[kind]]) for kind in several},
        stack: algebra(kinds),
    }


def algebra(kinds: Sequence[str]) -> str:
    """The shortest sentence of layer algebra for a list of blocks: runs, or one repeat and what remains of it."""
    kinds = list(kinds)
    found = [_runs(kinds)]
    for period in range(2, len(kinds) // 2 + 1):
        turns = next(n for n in itertools.count(1) if kinds[n * period : (n + 1) * period] != kinds[:period])
        if turns > 1:
            rest = kinds[turns * period :]
            found.append([f"{turns}*({' + '.join(_runs(kinds[:period]))})", *_runs(rest)])
    # Blocks in the sentence are blocks to compile.
    return min((" + ".join(parts) for parts in found), key=lambda text: (text.count("+"), len(text)))


def _runs(kinds: Sequence[str]) -> list[str]:
    counted = [(kind, len(list(run))) for kind, run in itertools.groupby(kinds)]
    return [kind if count == 1 else f"{count}*{kind}" for kind, count in counted]


def balance(fields: Fields) -> str | None:
    """What a layer's balance counts: their loss is one for all layers together, and adds up the shares of a token's choices."""
    coefficient = fields.read("router_aux_loss_coef", float, 0.001)
    return f"{coefficient}*top_k/layers" if coefficient else None


def balance_field(model: spec.Model, moe: Component) -> float:
    """The inverse."""
    *_, layers = model.stacks.values()
    return float(f"{moe['router'].get('balance', 0.0) * len(layers) / moe['top_k']:.12g}")
