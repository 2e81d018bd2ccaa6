"""A family's table, the reading of its config.json, and the words that tables share."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from taxonomy import registry, spec
from taxonomy.errors import UserError, nearest
from taxonomy.interop.rows import Row
from taxonomy.registry import Component

# Fields of config.json that say nothing about the function a model computes.
INERT = """
    model_type architectures dtype torch_dtype transformers_version _name_or_path _commit_hash use_cache initializer_range
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id tokenizer_class prefix task_specific_params
    id2label label2id num_labels problem_type finetuning_task return_dict output_attentions output_hidden_states output_scores
    return_dict_in_generate torchscript use_bfloat16 tf_legacy_loss gradient_checkpointing chunk_size_feed_forward
    cross_attention_hidden_size _attn_implementation attn_implementation _attn_implementation_autoset
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens
""".split()  # noqa: SIM905
# Fields that would change the function: absent, or this value.
FIXED = {"is_encoder_decoder": False, "add_cross_attention": False, "tie_encoder_decoder": False, "pruned_heads": {}}

# Their words for activations, and our components; the first word of each is the one that is written.
PLAIN = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu(approximate=True)",
    "gelu_new": "geglu(approximate=True)",
    "relu": "reglu",
    "sigmoid": "glu",
}
# Attention with heads of queries, keys and values, whatever their numbers.
MULTI_HEAD = ("mha", "mqa", "gqa")
# The kinds of sublayers in most layers, and in those of a decoder beside an encoder.
USUAL = ("attention", "feedforward")
CROSSING = ("attention", "attention", "feedforward")
_REQUIRED = object()


class Inexpressible(UserError):
    """A model has something that a family's config.json cannot say. `near`: all else fits."""

    def __init__(self, message: str, near: bool = False):
        super().__init__(message)
        self.near = near


@dataclasses.dataclass(frozen=True)
class Family:
    """The table of one `model_type`.

    architecture: the class that from_pretrained builds, unless `hf_config` names another.
    prefix: what the names of its base model begin with; checkpoints of the base model alone lack it.
    section, hf_config: their config.json -> our `model` section, and the parsed model -> their config.json.
    rows: see `rows`. buffers: tensors that play no part in the model, in the language of rows; zeros: those that may only be zero.
    tied: tensors that may be stored although they are another one. doubles: those of them that are written all the same, as their
        class wants them where config.json says so.
    earlier: endings of names in old files, and those of today.
    inert, fixed: more fields of config.json, as above.
    """

    model_type: str
    architecture: str
    prefix: str
    section: Callable[["Fields"], dict[str, Any]]
    hf_config: Callable[[spec.Model], dict[str, Any]]
    rows: tuple[Row, ...]
    buffers: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    doubles: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda values: {}
    earlier: Mapping[str, str] = dataclasses.field(default_factory=dict)
    inert: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Fields:
    """A config.json that remembers which of its fields were read, so that none is ignored.

    tensors: the names of those beside it.
    """

    def __init__(self, values: Mapping[str, Any], source: str, tensors: Collection[str] = ()):
        self.values, self.source, self.tensors = values, source, tensors
        self._read: set[str] = set()

    def read(self, name: str, kind: type | Mapping[str, Any], default: Any = _REQUIRED) -> Any:
        """The field as a bool, int, float or str, or looked up among the words of `kind`. Absent and null mean `default`."""
        self._read.add(name)
        value = self.values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise UserError(f"{self.source}: {name}: required, but missing")
            return default
        if isinstance(kind, Mapping):
            if type(value) is not str or value not in kind:
                raise UserError(f"{self.source}: {name}: cannot be {value!r}{nearest(value, kind)}")
            return kind[value]
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise UserError(f"{self.source}: {name}: expected {kind.__name__}, got {value!r}")
        return value

    def or_null(self, name: str, kind: type, default: Any) -> Any:
        """A field that may be switched off: absent means `default`, null None."""
        return self.read(name, kind, None if name in self.values else default)

    def inside(self, name: str) -> "Fields":
        """A field that holds fields; without any when absent or null."""
        self._read.add(name)
        value = self.values.get(name) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"{self.source}: {name}: expected an object, got {value!r}")
        return Fields(value, f"{self.source}: {name}")

    def finish(self, inert: Iterable[str] = (), fixed: Mapping[str, Any] | None = None) -> None:
        """Raises UserError when a field was neither read nor declared: it may change what the model computes."""
        fixed = fixed or {}
        inert = set(inert)
        for name, value in self.values.items():
            if value is None or name in self._read or name in inert:
                continue
            if name not in fixed:
                raise UserError(
                    f"{self.source}: {name}={value!r} is not a field this conversion knows; "
                    "remove it if it does not change what the model computes"
                )
            if value != fixed[name]:
                raise UserError(f"{self.source}: {name}={value!r} is not supported (allowed: {fixed[name]!r})")


def say(name: str, **arguments: Any) -> str:
    """A component expression. Absent arguments are None; strings are expressions themselves. `name` may have arguments already."""
    name, _, given = name.partition("(")
    parts = [given.removesuffix(")")] if given else []
    parts += [f"{key}={value}" for key, value in arguments.items() if value is not None]
    return f"{name}({', '.join(parts)})" if parts else name


def word(words: Mapping[str, str], ours: str) -> str:
    """Their first word for a component of ours. Raises Inexpressible."""
    for theirs, name in words.items():
        if name == ours:
            return theirs
    raise Inexpressible(f"no word for '{ours}'{nearest(ours, words.values())}")


def all_layers(
    model: spec.Model, stack: str = "decoder", sublayers: tuple[str, ...] = USUAL, attentions: tuple[str, ...] = MULTI_HEAD
) -> list[tuple[Component, ...]]:
    """The block and its sublayers, of these kinds, of every layer of a stack. Raises Inexpressible where there is anything else."""
    layers, found = getattr(model, stack), {}
    if layers is None:
        raise Inexpressible(f"a model that is {model.structure} where one with a stack '{stack}' is expected")
    for name in layers.names():
        block = model.block(name)
        parts = block.get("sublayers", ())
        if tuple(part.kind for part in parts) != sublayers:
            raise Inexpressible(f"a block of ({', '.join(part.name for part in parts)}) where ({', '.join(sublayers)}) is expected")
        for part in parts:
            if part.kind == "attention":
                _one_of(part, attentions)
        found[name] = (block, *parts)
    return [found[name] for name in layers]


def first_layer(model: spec.Model, stack: str = "decoder", sublayers: tuple[str, ...] = USUAL) -> tuple[Component, ...]:
    """The block and its sublayers of the first layer."""
    return all_layers(model, stack, sublayers)[0]


def need(component: Component, argument: str) -> Any:
    """The value of an argument that this family's components have. Raises Inexpressible where another component stands."""
    value = component.get(argument)
    if value is None:
        raise Inexpressible(f"{component.name} has no {argument}")
    return value


def kv_heads(attention: Component) -> int:
    """Key-value heads of any kind of multi-head attention. Raises Inexpressible for another kind."""
    _one_of(attention, MULTI_HEAD)
    return registry.instantiate(attention).groups


def _one_of(attention: Component, names: tuple[str, ...]) -> None:
    if attention.name not in names:
        raise Inexpressible(f"no word for '{attention.name}' (allowed: {', '.join(names)})")


def spread(model: spec.Model) -> float:
    """The standard deviation of initial weights, for config.json; it has no meaning once there are weights."""
    return model.initializer.get("std") or 0.02
