"""Name -> component: the index of every idea, with the paper it comes from and its one-line definition.

A component is a dataclass (a Flax module, or a plain frozen one) whose fields are the arguments of its expression:

    @component("rmsnorm", kind="norm", paper="Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4")
    class RMSNorm(nn.Module):
        eps: float

The type of a field is checked when an expression is read. A field annotated with one of the component types below takes another
component, and when it has no default it takes the model's key of its own name. `formula("d_model / heads")` is a default computed
from the model's scalars and the component's other arguments. A method `check(self)` may raise ValueError on impossible values.
"""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from taxonomy.errors import nearest


@dataclasses.dataclass(frozen=True)
class Formula:
    """A default value that is arithmetic over scalars."""

    text: str


def formula(text: str) -> Any:
    """A field default computed from the model's scalars and the arguments before it, such as "d_model / heads"."""
    return Formula(text)


@dataclasses.dataclass(frozen=True)
class Component:
    """A resolved component expression: every argument present and typed. `label` is the name of its place in the model."""

    kind: str
    name: str
    arguments: tuple[tuple[str, Any], ...]
    label: str = dataclasses.field(default="", compare=False)

    def __getitem__(self, argument: str) -> Any:
        return dict(self.arguments)[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        return dict(self.arguments).get(argument, default)

    def replace(self, **changes: Any) -> "Component":
        """The same component with some arguments changed."""
        merged = {**dict(self.arguments), **changes}
        return dataclasses.replace(self, arguments=tuple(merged.items()))

    def parts(self) -> Iterator["Component"]:
        """The components among its arguments."""
        for _, value in self.arguments:
            yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Component))

    def walk(self) -> Iterator["Component"]:
        """This component and all components inside it."""
        yield self
        for part in self.parts():
            yield from part.walk()

    def __str__(self) -> str:
        def one(value):
            if isinstance(value, tuple):
                return "(" + ", ".join(map(one, value)) + ("," if len(value) == 1 else "") + ")"
            return str(value) if isinstance(value, Component) else repr(value)

        given = [f"{k}={one(v)}" for k, v in self.arguments]
        return f"{self.name}({', '.join(given)})" if given else self.name


SUBLAYER_KINDS = ("attention", "feedforward")
Norm = Annotated[Component, ("norm",)]
Position = Annotated[Component, ("position",)]
Mask = Annotated[Component, ("mask",)]
Init = Annotated[Component, ("init",)]
Embedding = Annotated[Component, ("embedding",)]
Sublayer = Annotated[Component, SUBLAYER_KINDS]

# Modules that define components, imported on first use so that `import taxonomy` stays quick.
_MODULES = (
    "taxonomy.layers.attention",
    "taxonomy.layers.balanced_routers",
    "taxonomy.layers.embeddings",
    "taxonomy.layers.experts",
    "taxonomy.layers.feedforward",
    "taxonomy.layers.fixed_routers",
    "taxonomy.layers.heads",
    "taxonomy.layers.initializers",
    "taxonomy.layers.latent_attention",
    "taxonomy.layers.norms",
    "taxonomy.layers.parametrizations",
    "taxonomy.layers.positions",
    "taxonomy.layers.random_routers",
    "taxonomy.layers.relative",
    "taxonomy.layers.rotary",
    "taxonomy.layers.routers",
    "taxonomy.layers.temperature",
    "taxonomy.ops.losses",
    "taxonomy.ops.masks",
    "taxonomy.blocks",
    "taxonomy.depths",
    "taxonomy.tracks",
    "taxonomy.data.functions",
    "taxonomy.data.mixture",
    "taxonomy.data.pairs",
    "taxonomy.data.sources",
    "taxonomy.data.tokenizers",
    "taxonomy.data.library_tokenizer",
    "taxonomy.objectives.blank_infilling",
    "taxonomy.objectives.causal",
    "taxonomy.objectives.control_tokens",
    "taxonomy.objectives.fill_in_the_middle",
    "taxonomy.objectives.masked_lm",
    "taxonomy.objectives.mixture",
    "taxonomy.objectives.mode",
    "taxonomy.objectives.pairs",
    "taxonomy.objectives.permutation_lm",
    "taxonomy.objectives.prefix_lm",
    "taxonomy.objectives.random_pivot",
    "taxonomy.objectives.span_corruption",
    "taxonomy.objectives.text_infilling",
    "taxonomy.training.optimizers",
    "taxonomy.training.schedules",
    "taxonomy.inference.ahead_drafts",
    "taxonomy.inference.drafts",
    "taxonomy.inference.length_penalties",
    "taxonomy.inference.model_drafts",
    "taxonomy.inference.local_tasks",
    "taxonomy.inference.penalties",
    "taxonomy.inference.samplers",
    "taxonomy.inference.truncation",
    "taxonomy.inference.scores",
)


def of_kind(kinds: tuple[str, ...]) -> str:
    """What a place for a component takes, in words."""
    return f"{'an' if kinds[0][0] in 'aeiou' else 'a'} {' or '.join(kinds)} component"


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a component. `kinds` is set when it takes components, `many` when it takes any number of them."""

    name: str
    types: tuple[type, ...]
    kinds: tuple[str, ...] | None
    choices: tuple[Any, ...] | None
    optional: bool
    many: bool
    default: Any

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    def allowed(self) -> str:
        """What the argument takes, in words."""
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        names = [of_kind(self.kinds)] if self.kinds else [t.__name__ for t in self.types]
        return " or ".join(names + (["None"] if self.optional else []))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered component."""

    kind: str
    name: str
    factory: type
    paper: str
    arguments: dict[str, Argument]

    @property
    def summary(self) -> str:
        return inspect.getdoc(self.factory).splitlines()[0]


_ENTRIES: dict[tuple[str, str], Entry] = {}
_loaded = False


def component(name: str, *, kind: str, paper: str) -> Callable[[type], type]:
    """Class decorator: registers a dataclass as the component `name`. `paper` is where the idea was published, or ""."""

    def register(factory: type) -> type:
        if not dataclasses.is_dataclass(factory):
            raise TypeError(f"component {name}: {factory} is not a dataclass")
        if not factory.__dict__.get("__doc__") or factory.__doc__.startswith(factory.__name__ + "("):
            raise TypeError(f"component {name}: the class needs a docstring that defines it in one line")
        if (kind, name) in _ENTRIES:
            raise ValueError(f"{kind} '{name}' is registered twice")
        _ENTRIES[kind, name] = Entry(kind, name, factory, paper, _arguments(factory))
        return factory

    return register


def _arguments(factory: type) -> dict[str, Argument]:
    hints = typing.get_type_hints(factory, include_extras=True)
    found = {}
    # Keyword-only fields come last: what a base class shares follows what makes the component itself.
    for f in sorted(dataclasses.fields(factory), key=lambda f: f.kw_only):
        if f.name in ("parent", "name") or not f.init:
            continue
        default = f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        found[f.name] = _argument(f.name, hints[f.name], default)
    return found


def _argument(name: str, hint: Any, default: Any) -> Argument:
    parts = list(typing.get_args(hint)) if _is_union(hint) else [hint]
    optional = type(None) in parts
    parts = [p for p in parts if p is not type(None)]
    many = any(typing.get_origin(p) is tuple for p in parts)
    if many:
        parts = [typing.get_args(parts[0])[0]]
    kinds, choices, types = None, None, []
    for part in parts:
        if typing.get_origin(part) is Annotated:
            kinds = part.__metadata__[0]
        elif typing.get_origin(part) is typing.Literal:
            choices = typing.get_args(part)
        else:
            types.append(part)
    return Argument(name, tuple(types), kinds, choices, optional, many, default)


def _is_union(hint: Any) -> bool:
    import types

    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def load() -> None:
    """Imports every module that defines components."""
    global _loaded
    if not _loaded:
        for module in _MODULES:
            importlib.import_module(module)
        _loaded = True


def entries(kind: str | None = None) -> list[Entry]:
    """All registered components, or those of one kind, by kind and name."""
    load()
    return [e for key, e in sorted(_ENTRIES.items()) if kind in (None, key[0])]


def find(kinds: tuple[str, ...], name: str) -> Entry:
    """The component of one of these kinds. Raises LookupError with the nearest names."""
    load()
    for kind in kinds:
        if (kind, name) in _ENTRIES:
            return _ENTRIES[kind, name]
    names = [n for k, n in _ENTRIES if k in kinds]
    raise LookupError(f"unknown {' or '.join(kinds)} '{name}'{nearest(name, names)}")


def instantiate(part: Component, transform: Callable[[type], type] | None = None, **runtime: Any) -> Any:
    """The object a resolved component stands for. `transform` wraps its class; `runtime` adds what its expression has not."""
    factory = _ENTRIES[part.kind, part.name].factory
    return (transform(factory) if transform else factory)(**dict(part.arguments), **runtime)


def create(kind: str, sentence: str, where: str, **scalars: int | float) -> Any:
    """Reads an expression outside a model, such as an optimizer or a tokenizer, and returns the object it stands for."""
    from taxonomy import spec

    return instantiate(spec.resolve(sentence, (kind,), spec.Scope(where, scalars)))
