"""The parsed model: frozen, typed, without arrays. Expressions come in as strings and leave as resolved components."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from taxonomy import notation, registry
from taxonomy.errors import UserError, nearest
from taxonomy.notation import Call, Layers, Literal, Name, Node, NotationError
from taxonomy.registry import Argument, Component, Entry

# Keys of a model section that are not sublayers; every other string key names a sublayer that blocks can use.
_PART_KINDS = {
    "norm": "norm",
    "position": "position",
    "mask": "mask",
    "initializer": "init",
    "parametrization": "parametrization",
    "embedding": "embedding",
    "head": "head",
    "final_norm": "norm",
    "encoder_norm": "norm",
}
STACKS = ("encoder", "decoder")
# Keys that are layer algebra.
_ALGEBRA = (*STACKS, "ahead")
_REQUIRED_SCALARS = ("vocab", "d_model", "context")


@dataclasses.dataclass(frozen=True)
class Scope:
    """Where a sentence stands: a name for messages, the scalars it may use, and the model's keys its parts default to.

    of_base: the scalars of a base model, from these; initialisers and what is called a scale are said for that one.
    """

    where: str
    scalars: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    open_keys: tuple[str, ...] = ()
    of_base: Callable[[Mapping[str, int | float]], Mapping[str, int | float]] | None = None

    def inside(self, arguments: Mapping[str, Any]) -> "Scope":
        """The scope of a component's parts, which may use its own numbers."""
        own = {k: v for k, v in arguments.items() if type(v) in (int, float)}
        return dataclasses.replace(self, scalars={**self.scalars, **own})


def resolve(text: str, kinds: tuple[str, ...], scope: Scope) -> Component:
    """The component a sentence stands for, every argument typed and filled in. Raises NotationError."""
    return _component(notation.parse(text, scope.where), kinds, scope, text)


def _component(node: Node, kinds: tuple[str, ...], scope: Scope, text: str) -> Component:
    match node:
        case Name(identifier=identifier):
            positional, keywords = (), ()
        case Call(identifier=identifier, positional=positional, keywords=keywords):
            pass
        case _:
            message = f"expected {registry.of_kind(kinds)}, got {notation.show(node)}"
            raise notation.error(scope.where, text, node.column, message)
    try:
        entry = registry.find(kinds, identifier)
    except LookupError as e:
        if identifier in scope.open_keys:
            raise _defined_by_itself(identifier, scope, node.column, text) from None
        raise notation.error(scope.where, text, node.column, str(e)) from None

    given = _bind(entry, positional, keywords, node.column, scope, text)
    values: dict[str, Any] = {}
    # Numbers first: parts and formulas may use them.
    ordered = sorted(entry.arguments.values(), key=lambda a: a.kinds is not None)
    for argument in ordered:
        inner = scope.inside(values)
        if scope.of_base and (entry.kind == "init" or argument.name == "scale"):
            inner = dataclasses.replace(inner, scalars=scope.of_base(inner.scalars), of_base=None)
        if argument.name in given:
            values[argument.name] = _value(argument, given[argument.name], inner, text)
        else:
            values[argument.name] = _default(entry, argument, inner, node.column, text)
    values = {name: values[name] for name in entry.arguments}
    _check(entry, values, node.column, scope, text)
    return Component(entry.kind, entry.name, tuple(values.items()), entry.name)


def _bind(entry: Entry, positional, keywords, column: int, scope: Scope, text: str) -> dict[str, Any]:
    names = list(entry.arguments)
    many = next((a.name for a in entry.arguments.values() if a.many and a.kinds), None)
    given: dict[str, Any] = {}
    if many:
        if positional:
            given[many] = positional
    elif len(positional) > len(names):
        message = f"{entry.name} takes at most {len(names)} arguments, got {len(positional)}"
        raise notation.error(scope.where, text, column, message)
    else:
        given = dict(zip(names, positional, strict=False))
    for name, node in keywords:
        if name not in entry.arguments:
            message = f"{entry.name} has no argument '{name}'{nearest(name, names)}"
            raise notation.error(scope.where, text, node.column, message)
        if name in given:
            raise notation.error(scope.where, text, node.column, f"{entry.name}: argument '{name}' is given twice")
        given[name] = node
    return given


def _default(entry: Entry, argument: Argument, scope: Scope, column: int, text: str) -> Any:
    if isinstance(argument.default, registry.Formula):
        formula = argument.default.text
        value = notation.evaluate(notation.parse(formula), scope.scalars, formula, f"{scope.where}: {entry.name}")
        return _number(argument, value, f"{argument.name}={formula}", scope, column, text)
    if not argument.required:
        return argument.default
    if argument.kinds and argument.name in scope.keys:
        return _inherited(argument, scope, column, text)
    message = f"{entry.name} needs the argument '{argument.name}' ({argument.allowed()})"
    if argument.kinds:
        message += f", here or as the model's key '{argument.name}'"
    raise notation.error(scope.where, text, column, message)


def _inherited(argument: Argument, scope: Scope, column: int, text: str) -> Component:
    key = argument.name
    if key in scope.open_keys:
        raise _defined_by_itself(key, scope, column, text)
    place = dataclasses.replace(scope, where=f"model.{key}", open_keys=(*scope.open_keys, key))
    part = resolve(scope.keys[key], argument.kinds, place)
    return dataclasses.replace(part, label=key)


def _defined_by_itself(key: str, scope: Scope, column: int, text: str) -> NotationError:
    message = f"the model's key '{key}' is defined by itself ({' -> '.join((*scope.open_keys, key))})"
    return notation.error(scope.where, text, column, message)


def _value(argument: Argument, node: Node | tuple, scope: Scope, text: str) -> Any:
    if argument.many:
        if isinstance(node, Literal) and isinstance(node.value, tuple):
            node = node.value
        nodes = node if isinstance(node, tuple) else (node,)
        single = dataclasses.replace(argument, many=False)
        return tuple(_value(single, n, scope, text) for n in nodes)
    if argument.optional and node == Literal(None):
        return None
    if argument.kinds:
        if isinstance(node, Name) and node.identifier in scope.keys and node.identifier not in scope.open_keys:
            return _inherited(dataclasses.replace(argument, name=node.identifier), scope, node.column, text)
        return _component(node, argument.kinds, scope, text)
    plain = isinstance(node, Literal) and type(node.value) not in (int, float)
    if isinstance(node, Literal) and argument.choices:
        if node.value in argument.choices:
            return node.value
    elif plain and type(node.value) in argument.types:
        return node.value
    elif not plain and (int in argument.types or float in argument.types):
        value = notation.evaluate(node, scope.scalars, text, scope.where)
        return _number(argument, value, f"{argument.name}={notation.show(node)}", scope, node.column, text)
    message = f"argument '{argument.name}' takes {argument.allowed()}, got {notation.show(node)}"
    raise notation.error(scope.where, text, node.column, message)


def _number(argument: Argument, value: int | float, shown: str, scope: Scope, column: int, text: str) -> int | float:
    if float in argument.types:
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise notation.error(scope.where, text, column, f"{shown} is {value}, not a whole number")
    return int(value)


def _check(entry: Entry, values: dict[str, Any], column: int, scope: Scope, text: str) -> None:
    if not hasattr(entry.factory, "check"):
        return
    try:
        entry.factory(**values).check()
    except ValueError as e:
        raise notation.error(scope.where, text, column, f"{entry.name}: {e}") from None


@dataclasses.dataclass(frozen=True)
class Model:
    """A complete model: scalars, resolved components, blocks by name, and the layer algebra of its stacks.

    `final_norm` follows the decoder, or the encoder of a model that has no other stack; `encoder_norm` the encoder of one that has.
    `context` and `inputs`: tokens of the decoder (or the only stack) and of the encoder beside it. `generator`: the net trained
    beside this one, whose samples this one tells from the original. `ahead`: the blocks of the modules that predict further ahead
    while training, one for each, and `ahead_norm` the norm of what they join, see `ahead.Ahead`.
    `parametrization`: what has changed initialisers and scores for this width, see `layers.parametrizations`; None: nothing.
    """

    vocab: int
    d_model: int
    context: int
    inputs: int
    embedding: Component
    head: Component
    final_norm: Component | None
    encoder_norm: Component | None
    initializer: Component
    blocks: tuple[tuple[str, Component], ...]
    encoder: Layers | None
    decoder: Layers | None
    generator: "Model | None" = None
    ahead: Layers | None = None
    ahead_norm: Component | None = None
    parametrization: Component | None = None

    @property
    def alone(self) -> "Model":
        """The same without a generator and modules that predict further ahead: what is left after training."""
        return dataclasses.replace(self, generator=None, ahead=None, ahead_norm=None)

    def block(self, name: str) -> Component:
        return dict(self.blocks)[name]

    def output_scale(self, width: int) -> float:
        """What logits are multiplied by that are products with vectors of this width."""
        # Vectors of a width of their own have it in the base model, too.
        if self.parametrization is None or width != self.d_model:
            return 1.0
        return registry.instantiate(self.parametrization).output_scale(self.d_model)

    @property
    def stacks(self) -> dict[str, Layers]:
        """The stacks there are, by name, in the order of computation."""
        return {name: getattr(self, name) for name in STACKS if getattr(self, name) is not None}

    @property
    def prefixed(self) -> bool:
        """Whether a layer's mask lets all tokens see a prefix."""
        return any(registry.instantiate(part).prefix for part in self.components() if part.kind == "mask")

    @property
    def detects(self) -> bool:
        """Whether its head tells which tokens were replaced."""
        return getattr(registry.find(("head",), self.head.name).factory, "loss", None) == "binary"

    @property
    def ordered(self) -> bool:
        """Whether it reads an order in which its tokens are predicted."""
        return any(registry.instantiate(part).ordered for part in self.components() if part.kind == "mask")

    @property
    def structure(self) -> str:
        """decoder, prefix-decoder, encoder or encoder-decoder."""
        return "prefix-decoder" if self.prefixed and self.encoder is None else "-".join(self.stacks)

    def components(self) -> list[Component]:
        """Every component used, each once, in reading order."""
        tops = [self.embedding, *(b for _, b in self.blocks), self.head]
        tops += [part for part in (self.encoder_norm, self.final_norm, self.parametrization) if part]
        parts = [part for top in tops for part in top.walk()] + (self.generator.components() if self.generator else [])
        return list(dict.fromkeys(parts))


def model(section: Mapping[str, Any]) -> Model:
    """Reads the `model` section of a config. Raises NotationError or UserError naming `model.KEY`."""
    section = dict(section)
    changes = section.pop("generator", None)
    if changes is not None:
        beside = model(section)
        return dataclasses.replace(beside, generator=_generator(beside, section, changes))
    scalars = {k: v for k, v in section.items() if type(v) in (int, float)}
    for key in _REQUIRED_SCALARS:
        if type(section.get(key)) is not int or section[key] < 1:
            raise UserError(f"model.{key}: a whole number of at least 1 is required, got {section.get(key)!r}")
    present = [name for name in STACKS if section.get(name) is not None]
    for key in ("blocks", "head", "initializer", *([] if present else ["decoder"])):
        if section.get(key) is None:
            raise UserError(f"model.{key}: required, but missing (the model section has: {', '.join(section)})")
    _check_types(section)
    keys = {k: v for k, v in section.items() if isinstance(v, str) and k not in _ALGEBRA}
    keys.setdefault("mask", "causal" if "decoder" in present else "full")
    keys.setdefault("embedding", "table")

    blocks = section["blocks"]
    stacks = {name: notation.layers(section[name], blocks, scalars, f"model.{name}") for name in present}
    scalars |= {f"{name}_layers": len(layers) for name, layers in stacks.items()}
    scalars["layers"] = len(stacks[present[-1]])
    scalars.setdefault("inputs", scalars["context"])
    scope = Scope("model", scalars, keys)
    parametrization = None
    if "parametrization" in keys:
        place = dataclasses.replace(scope, where="model.parametrization")
        parametrization = resolve(keys["parametrization"], ("parametrization",), place)
        of_base = functools.partial(registry.instantiate(parametrization).of_base, d_model=section["d_model"])
        scope = dataclasses.replace(scope, of_base=of_base)
    scalars |= _attention_scalars(keys, scope)

    def part(key: str) -> Component:
        place = dataclasses.replace(scope, where=f"model.{key}", open_keys=(key,))
        return dataclasses.replace(resolve(keys[key], (_PART_KINDS[key],), place), label=key)

    resolved = {
        name: dataclasses.replace(resolve(text, ("block",), dataclasses.replace(scope, where=f"model.blocks.{name}")), label=name)
        for name, text in blocks.items()
    }
    _check_unused(section, keys, resolved)
    _check_sources(stacks, resolved)
    _check_orders(stacks, resolved)
    ahead = None
    if section.get("ahead") is not None:
        ahead = notation.layers(section["ahead"], blocks, scalars, "model.ahead")
        _check_ahead(ahead, resolved, present, keys, part("head"))
    for layers in (*stacks.values(), *(Layers((block,)) for block in ahead or ())):
        _check_lending(layers, resolved, None)
    norms = [
        _norm_after(key, section, keys, resolved, layers, part)
        for key, layers in zip(_norm_keys(present), stacks.values(), strict=True)
    ]
    found = Model(
        **{k: section[k] for k in _REQUIRED_SCALARS},
        inputs=int(scalars["inputs"]),
        embedding=part("embedding"),
        head=part("head"),
        final_norm=norms[-1],
        encoder_norm=norms[0] if len(norms) > 1 else None,
        initializer=part("initializer"),
        blocks=tuple(resolved.items()),
        encoder=stacks.get("encoder"),
        decoder=stacks.get("decoder"),
        ahead=ahead,
        ahead_norm=part("norm") if ahead else None,
    )
    return found if parametrization is None else _adapted(found, parametrization)


def _adapted(found: Model, parametrization: Component) -> Model:
    """The model as a parametrization has it at this width; its tables are those of the base."""
    one = functools.partial(registry.instantiate(parametrization).adapted, d_model=found.d_model)
    return dataclasses.replace(
        found,
        head=one(found.head),
        initializer=one(found.initializer),
        blocks=tuple((name, one(block)) for name, block in found.blocks),
        parametrization=parametrization,
    )


def _generator(beside: Model, section: dict[str, Any], changes: Any) -> Model:
    """The generator beside a model: the keys in which it differs from the model's section, and the rest of that."""
    if not hasattr(changes, "items") or not changes or "generator" in changes:
        raise UserError(f"model.generator: expected the keys in which it differs from the model, such as d_model, got {changes!r}")
    if section.get("parametrization") and "parametrization" not in changes:
        raise UserError("model.generator.parametrization: required, for the generator of a base model has a width of its own")
    try:
        found = model({**section, **dict(changes)})
    except UserError as e:
        raise type(e)(str(e).replace("model.", "model.generator.")) from None
    for key, value in (("structure", "encoder"), ("vocab", beside.vocab), ("context", beside.context)):
        wrong = next((net for net in (beside, found) if getattr(net, key) != value), None)
        if wrong:
            raise UserError(f"model.generator: {key} must be {value!r} in both nets, got {getattr(wrong, key)!r}")
    if vectors(beside.embedding) != vectors(found.embedding):
        raise UserError(
            f"model.generator: both nets must have the same vectors, but with d_model={found.d_model} the embedding is "
            f"{vectors(found.embedding)}; give them a width of their own, as in projected(table(d_model=128))"
        )
    if found.detects or not beside.detects:
        heads = f"{beside.head.name} and {found.head.name}"
        raise UserError(f"model.generator: its head must say tokens and that of the model tell which were replaced, got {heads}")
    return found


def vectors(embedding: Component) -> Component:
    """What nets of several widths can share of an embedding: all but the projection to the width of each."""
    return embedding.get("base") or embedding


def _norm_keys(present: list[str]) -> list[str]:
    return ["encoder_norm", "final_norm"] if len(present) > 1 else ["final_norm"]


def _check_sources(stacks: Mapping[str, Layers], blocks: Mapping[str, Component]) -> None:
    """Only the decoder of a model with an encoder can attend to it."""
    for name, layers in stacks.items():
        for block in dict.fromkeys(layers):
            crossing = any(part.get("source") == "encoder" for part in blocks[block].walk())
            if crossing and (name != "decoder" or "encoder" not in stacks):
                raise UserError(
                    f"model.blocks.{block}: source='encoder' needs a decoder beside an encoder, but the block is in model.{name}"
                    + ("" if "encoder" in stacks else " and there is no model.encoder")
                )


def _check_lending(layers: Layers, blocks: Mapping[str, Component], lender: Component | None) -> None:
    """What attends to an earlier layer's keys has one before it, in the order of computation, whose keys it can read.

    What a repeat's body lends is for the rest of the body. Blocks inside a block may see other tokens than their neighbours, so
    that they neither lend nor borrow.
    """
    for item in layers.items:
        if not isinstance(item, str):
            _check_lending(item.body, blocks, lender)
            continue
        sublayers = blocks[item].get("sublayers") or ()
        for part in blocks[item].walk():
            if part not in sublayers and (part.get("lends") or part.get("source") == "earlier"):
                raise UserError(f"model.blocks.{item}: lends=True and source='earlier' do not stand in a block inside another")
        for part in sublayers:
            if part.get("source") != "earlier":
                continue
            where = f"model.blocks.{item}: source='earlier'"
            if lender is None:
                raise UserError(f"{where} needs a layer before it with lends=True (what a repeat's body lends stays inside)")
            one, other = registry.instantiate(part), registry.instantiate(lender)
            for name, own, lent in (
                ("kv_heads", one.groups, other.groups),
                ("head_dim", one.head_dim, other.head_dim),
                ("position", one.position, other.position),
            ):
                if own != lent:
                    raise UserError(f"{where} needs the {name} of the layer that lends, {lent}, got {own}")
            seen, kept = (registry.instantiate(each.mask).window for each in (one, other))
            if kept is not None and (seen is None or seen > kept):
                raise UserError(f"{where} with mask={one.mask} sees beyond the {kept} keys that mask={other.mask} keeps")
        lenders = [part for part in sublayers if part.get("lends")]
        if len(lenders) > 1:
            raise UserError(f"model.blocks.{item}: one attention of a block may have lends=True, got {len(lenders)}")
        lender = lenders[0] if lenders else lender


def _check_orders(stacks: Mapping[str, Layers], blocks: Mapping[str, Component]) -> None:
    """Without an order all tokens see each other, and with one both streams must pass the same layers: an encoder's, alone."""
    for block in dict.fromkeys(block for layers in stacks.values() for block in layers):
        ordered = [part for part in blocks[block].walk() if part.kind == "mask" and registry.instantiate(part).ordered]
        if ordered and list(stacks) != ["encoder"]:
            raise UserError(f"model.blocks.{block}: mask={ordered[0]} needs model.encoder and no model.decoder")


def _check_ahead(
    ahead: Layers, blocks: Mapping[str, Component], present: list[str], keys: Mapping[str, str], head: Component
) -> None:
    """A module joins a token with the next ones, so no token before it may see it."""
    if present != ["decoder"]:
        raise UserError(f"model.ahead: needs model.decoder and no model.encoder, but there is model.{' and model.'.join(present)}")
    if "norm" not in keys:
        raise UserError("model.norm: required by model.ahead, whose modules begin with two norms")
    if head.get("vocab") is None:
        raise UserError(f"model.ahead: needs a head that says tokens, but there is model.head={head}")
    for block in dict.fromkeys(ahead):
        for part in blocks[block].walk():
            if part.kind == "mask" and not registry.instantiate(part).causal:
                raise UserError(f"model.ahead: needs masks that are causal, but block '{block}' has mask={part}")


def _check_types(section: Mapping[str, Any]) -> None:
    # An ml_collections ConfigDict behaves like a mapping without being registered as one.
    if not hasattr(section["blocks"], "items"):
        raise UserError(f"model.blocks: expected blocks by name, such as block='pre(attention, mlp)', got {section['blocks']!r}")
    for key, value in section.items():
        if key in _PART_KINDS or key in _ALGEBRA:
            types, allowed = (str,), "a sentence such as 'rope(theta=500000)'"
        else:
            types, allowed = (str, int, float), "a sentence such as 'gelu(d_ff=4*d_model)', or a number"
        if value is not None and key != "blocks" and type(value) not in types:
            raise UserError(f"model.{key}: expected {allowed}, got {value!r}")


def _attention_scalars(keys: Mapping[str, str], scope: Scope) -> dict[str, int | float]:
    """The numbers of the model's `attention` (heads, head_dim, ...), which other sentences may use."""
    if "attention" not in keys:
        return {}
    place = dataclasses.replace(scope, where="model.attention", open_keys=("attention",))
    part = resolve(keys["attention"], registry.SUBLAYER_KINDS, place)
    return {k: v for k, v in part.arguments if type(v) in (int, float) and k not in scope.scalars}


def _norm_after(key: str, section, keys, blocks: dict[str, Component], layers: Layers, part) -> Component | None:
    """The norm after a stack: its own key, or `norm` where the last block leaves the stream unnormalised."""
    if key in section:
        return part(key) if section[key] is not None else None
    *_, last = layers
    if not registry.find(("block",), blocks[last].name).factory.leaves_stream_unnormalised:
        return None
    if "norm" not in keys:
        raise UserError(f"model.norm: required by the norm after the last block (or set model.{key})")
    return dataclasses.replace(part("norm"), label=key)


def _check_unused(section: Mapping[str, Any], keys: Mapping[str, str], resolved: dict[str, Component]) -> None:
    """A sublayer or a number that nothing uses is a mistake in the config, such as a misspelt key."""

    def named(texts):
        return set().union(*(notation.names(notation.parse(text)) for text in texts))

    in_blocks = named(section["blocks"].values())
    used = {c.label for block in resolved.values() for c in block.walk()} | in_blocks
    everywhere = in_blocks | named(v for v in section.values() if isinstance(v, str))
    for key, value in section.items():
        known = key in (*_PART_KINDS, *_ALGEBRA, *_REQUIRED_SCALARS, "blocks", "inputs") or value is None
        if not known and key not in (used if key in keys else everywhere):
            options = [*_PART_KINDS, *_ALGEBRA, *_REQUIRED_SCALARS, "blocks", *in_blocks]
            raise NotationError(f"model.{key}: nothing uses this key{nearest(key, options)}")
