"""What a model costs: parameters, FLOPs and cache bytes, all derived from what its modules declare.

Nothing here knows a family. Parameters come from an abstract `init`, whose boxes carry each parameter's role; the FLOPs of
attention and the size of its cache from methods of the attention modules themselves.

Conventions. A FLOP is one addition or one multiplication, so a matrix costs 2 per element and token. Only matrix products count:
projections, the head (the token table when it is tied), scores and weighted sums. Attention is counted over the keys its mask
allows, averaged over a document of `context` tokens: half of all pairs when causal. `masked=False` counts all pairs, as the
reference implementation computes them and as PaLM's 12 L H Q T does (arXiv:2204.02311, Appendix B). Of a layer that a share of the
tokens goes through that share counts, and its square of the pairs; `masked=False` counts all tokens, as evaluation computes them.
Training costs 3 forward passes (a backward pass is two); recomputation under remat is not counted, nor the logits computed again
to sample from a generator. A generator and modules that predict further ahead are left behind after training: their parameters are
counted apart, and their FLOPs are those of training alone. No token is global. Where an order is read (`ordered`), two streams pass
the layers and share keys, values and the head; attention counts all pairs, for which of them are seen is the order's.
What moves a router's choice without a gradient is state, not a parameter.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.ahead import PREFIX
from taxonomy.depths import INSIDE
from taxonomy.layers.cache import POSITION_BYTES, cache_slots, kept_bytes
from taxonomy.layers.params import MATRIX_ROLES, Declared
from taxonomy.notation import Layers
from taxonomy.registry import Component

_TABLE_ROLES = ("embedding", "position")


@dataclasses.dataclass(frozen=True)
class CacheBytes:
    """What a row keeps while it is decoded: keys and values, and the positions of their tokens."""

    vectors: int
    positions: int


@dataclasses.dataclass(frozen=True)
class Accounting:
    """The costs of one model. FLOPs are per token and forward unless the name says otherwise; bytes are those of bfloat16.

    active_parameters: those a token's path goes through. embedding_parameters: token and position tables.
    by_part: parameters by module, as (path, count). attention_flops_per_token: the part of flops_per_token that grows with context.
    kv_cache_bytes_per_token: of keys and values while no window is full, and kv_cache_bytes: those of one row at full context,
        windows respected; the positions beside them are in `cache_bytes` alone.
    generator_parameters: those that only the generator has. generator_flops_per_token: of the generator.
    ahead_parameters: those of the modules that predict further ahead. ahead_flops_per_token: of them, with the head that each uses.
    """

    layers: int
    d_model: int
    context: int
    parameters: int
    active_parameters: int
    embedding_parameters: int
    by_part: tuple[tuple[str, int], ...]
    flops_per_token: float
    attention_flops_per_token: float
    kv_cache_bytes_per_token: int
    kv_cache_bytes: int
    generator_parameters: int = 0
    generator_flops_per_token: float = 0.0
    ahead_parameters: int = 0
    ahead_flops_per_token: float = 0.0

    @property
    def train_flops_per_token(self) -> float:
        """Forward and backward, with what is left behind after training and without an order."""
        return 3 * (self.flops_per_token + self.generator_flops_per_token + self.ahead_flops_per_token)

    @property
    def six_n(self) -> int:
        """The estimate 6 N per trained token with all active parameters (Hoffmann et al. 2022, arXiv:2203.15556)."""
        return 6 * self.active_parameters

    @property
    def six_n_without_embeddings(self) -> int:
        """The estimate 6 N per trained token without the tables (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""
        return 6 * (self.active_parameters - self.embedding_parameters)


def count(model: Mapping[str, Any] | spec.Model, context: int | None = None) -> Accounting:
    """The costs of a config's `model` section (or of a `spec.Model`) in documents of `context` tokens (its own by default)."""
    return _count(_parsed(model), context)


def forward_flops_per_token(
    model: Mapping[str, Any] | spec.Model, context: int | None = None, masked: bool = True, ordered: bool = False
) -> float:
    """Forward FLOPs per token, averaged over a document of `context` tokens; `masked`, `ordered` as at the top of this file."""
    model = _parsed(model)
    streams = 2 if ordered else 1
    return _matrix_flops(model, masked, streams) + streams * _attention_flops(model, context or model.context, masked)


def train_flops_per_token(model: Mapping[str, Any] | spec.Model, context: int | None = None, ordered: bool = False) -> float:
    """Forward and backward FLOPs per token, with what is left behind after training: the numerator of a FLOPs utilisation."""
    model = _parsed(model)
    nets = [model] if model.generator is None else [model, model.generator]
    return 3 * (sum(forward_flops_per_token(net, context, ordered=ordered) for net in nets) + ahead_flops_per_token(model, context))


def ahead_flops_per_token(model: spec.Model, context: int | None = None, masked: bool = True) -> float:
    """Forward FLOPs per token of the modules that predict further ahead: each is a model of one block, and a join before it."""
    one_block = (dataclasses.replace(model.alone, decoder=Layers((block,))) for block in model.ahead or ())
    return math.fsum(4 * model.d_model**2 + forward_flops_per_token(one, context, masked) for one in one_block)


def _parsed(model: Mapping[str, Any] | spec.Model) -> spec.Model:
    return model if isinstance(model, spec.Model) else spec.model(model)


@functools.lru_cache(maxsize=1024)
def _count(model: spec.Model, context: int | None) -> Accounting:
    context = context or model.context
    if model != model.alone:
        sizes = [(path, one.value.size) for path, one in declarations(model) if one.role != "selection"]
        return dataclasses.replace(
            _count(model.alone, context),
            generator_parameters=sum(size for path, size in sizes if path.startswith("generator/")),
            generator_flops_per_token=forward_flops_per_token(model.generator, context) if model.generator else 0.0,
            ahead_parameters=sum(size for path, size in sizes if path.startswith(PREFIX)),
            ahead_flops_per_token=ahead_flops_per_token(model, context),
        )
    sizes = [(part, one.role, one.value.size) for part, one in declarations(model) if one.role != "selection"]
    parts: Counter[str] = Counter()
    for part, _, size in sizes:
        parts[part] += size
    total = sum(parts.values())
    attention_flops = _attention_flops(model, context, masked=True)
    return Accounting(
        layers=sum(len(layers) for layers in model.stacks.values()),
        d_model=model.d_model,
        context=context,
        parameters=total,
        active_parameters=total - _inactive_parameters(model),
        embedding_parameters=sum(size for _, role, size in sizes if role in _TABLE_ROLES),
        by_part=tuple(parts.items()),
        flops_per_token=_matrix_flops(model, masked=True) + attention_flops,
        attention_flops_per_token=attention_flops,
        kv_cache_bytes_per_token=cache_bytes(model, 1, 0).vectors,
        kv_cache_bytes=cache_bytes(model, context).vectors,
    )


def cache_bytes(
    model: spec.Model, length: int, inputs: int | None = None, kind: str = "exact", dtype: str = "bfloat16"
) -> CacheBytes:
    """Of one row's cache of a kind for `length` tokens, beside an encoder that has read `inputs` (by default as the model does)."""
    inputs = model.inputs * length // model.context if inputs is None else inputs
    vectors = positions = 0
    for name, layers, part in _parts(model, "cache_widths"):
        widths = registry.instantiate(part).cache_widths()
        if name == "decoder" and widths:
            slots = layers * (inputs if part.get("source") == "encoder" else _slots(part, length))
            vectors, positions = vectors + slots * kept_bytes(widths, kind, dtype), positions + slots * POSITION_BYTES
    return CacheBytes(vectors, positions)


@functools.lru_cache(maxsize=1024)
def declarations(model: spec.Model) -> tuple[tuple[str, Declared], ...]:
    """Every parameter's declaration, with abstract values, and the path of its module without repeats: "decoder/block/mlp"."""
    module = model_lib.build(model)
    # The key is made inside, so that nothing is put on a device.
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), **model_lib.blank(model)))
    leaves, _ = jax.tree_util.tree_flatten_with_path(abstract["params"], is_leaf=lambda leaf: isinstance(leaf, Declared))

    def part(path) -> str:
        names = [entry.key for entry in path[:-1]]
        return "/".join(re.sub(r"^\d+_", "", name) for name in names if not re.fullmatch(r"\d+_repeat", name))

    return tuple((part(path), declared) for path, declared in leaves)


def _matrix_flops(model: spec.Model, masked: bool, streams: int = 1) -> float:
    """FLOPs per token of everything that is a product with a parameter; for two stacks, per token of the decoder."""
    ratio = model.inputs / model.context if len(model.stacks) > 1 else 1.0
    crossing = {part.label for _, _, part in _parts(model) if part.get("source") == "encoder"}
    shares = {f"{name}/{block}/{INSIDE}/": _share(model, block) for name in model.stacks for block, _ in model.blocks}
    sizes: Counter[str] = Counter()
    for path, declared in declarations(model.alone):
        of_inputs = path.startswith("encoder/") or (declared.role in ("key", "value") and path.rpartition("/")[2] in crossing)
        of_streams = path.partition("/")[0] in model.stacks and declared.role not in ("key", "value")
        share = next((share for inside, share in shares.items() if masked and path.startswith(inside)), 1)
        sizes[declared.role] += declared.value.size * (ratio if of_inputs else 1) * (streams if of_streams else 1) * share
    # Without a projection of its own the head uses the token table.
    head = 0 if sizes["output"] else spec.vectors(model.embedding)["width"] * model.vocab
    idle = 0.0
    for name, layers, part in _parts(model, "idle_elements", 1 if masked else 0):
        times = (ratio if name == "encoder" else 1) * (streams if part.kind == "feedforward" else 1)
        idle += times * layers * registry.instantiate(part).idle_elements(model.d_model)
    return 2 * (sum(sizes[role] for role in MATRIX_ROLES) + head - idle)


def _inactive_parameters(model: spec.Model) -> int:
    """Of experts that a token's path does not go through."""
    parts = _parts(model, "inactive_parameters")
    return sum(layers * registry.instantiate(part).inactive_parameters(model.d_model) for _, layers, part in parts)


def _attention_flops(model: spec.Model, context: int, masked: bool) -> float:
    unmasked = Component("mask", "full", ())
    inputs = model.inputs * context / model.context
    total = []
    for name, layers, part in _parts(model, "attention_flops", 2 if masked else 0):
        module = registry.instantiate(part if masked else part.replace(mask=unmasked))
        beside = name == "encoder" and len(model.stacks) > 1
        span = inputs if beside or part.get("source") == "encoder" else context
        total.append(layers * module.attention_flops(int(span)) * (inputs / context if beside else 1))
    return math.fsum(total)


def _parts(model: spec.Model, method: str = "", power: int = 0) -> Iterator[tuple[str, float, Component]]:
    """The components whose modules have the method: their stack, in how many of its layers they are, the component.

    Layers count for as much as this power of the share of tokens that go through them.
    """
    for name, stack in model.stacks.items():
        for block, layers in Counter(stack).items():
            for copies, part in _copies(model.block(block)):
                if not method or hasattr(registry.find((part.kind,), part.name).factory, method):
                    yield name, layers * copies * _share(model, block) ** power if power else layers * copies, part


def _share(model: spec.Model, block: str) -> float:
    """The share of the tokens that go through a block."""
    return registry.instantiate(model.block(block), parent=None).share


def _copies(part: Component) -> Iterator[tuple[int, Component]]:
    """A component and all inside it, with the number of times each is there."""
    yield 1, part
    factory = registry.find((part.kind,), part.name).factory
    times = registry.instantiate(part).copies() if hasattr(factory, "copies") else 1
    for inside in part.parts():
        for copies, found in _copies(inside):
            yield times * copies, found


def _slots(part: Component, context: int) -> int:
    mask = part.get("mask")
    return cache_slots(context, None if mask is None else registry.instantiate(mask).window)
