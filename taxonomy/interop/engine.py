"""Hugging Face checkpoints in and out.

`from_hf` reads a directory (config.json and safetensors) into a config and parameters; `to_hf` writes one that the class of
transformers which its config.json names loads. A family is a table (`family.Family`) and nothing else:

* `section` and `hf_config` translate config.json and our `model` section into each other. Reading knows which fields were used: one
  that is neither used nor declared harmless is an error. Writing tries every family, reads its own config.json back, and takes the
  family that means the same model; so `hf_config` need not check what it cannot say.
* `rows` pair tensors and parameters; each is read in both directions (see `rows`). A row applies wherever the model has its
  parameters, so one table covers biases on and off, tied and untied heads, optional norms, and stacks of several kinds of blocks.
  Every parameter must have exactly one row, and every tensor must be used, declared a buffer, or be a tied double.

Parameters are float32 numpy arrays in the layout of `stack`, repeats stacked on leading axes. Tensors are copied one by one into
their place, so besides the parameters themselves there is about one layer in memory.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from flax import traverse_util

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec, stack
from taxonomy.errors import UserError, nearest
from taxonomy.interop import (
    bart,
    bert,
    biogpt,
    bloom,
    cohere,
    cohere2,
    deepseek_v2,
    deepseek_v3,
    electra,
    falcon,
    files,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    helium,
    llama,
    llama4,
    longformer,
    mistral,
    mixtral,
    nemotron,
    openai_gpt,
    opt,
    persimmon,
    phi,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    roberta,
    smollm3,
    stablelm,
    starcoder2,
    switch_transformers,
    t5,
    xlnet,
)
from taxonomy.interop.family import FIXED, INERT, MULTI_HEAD, Family, Fields, kv_heads
from taxonomy.interop.rows import Row, Shape
from taxonomy.layers.positions import NoPosition
from taxonomy.registry import Component

# In the order in which they are tried when a model is written.
_TABLES = (
    gpt2,
    gptj,
    llama,
    mistral,
    qwen2,
    qwen3,
    smollm3,
    helium,
    deepseek_v2,
    deepseek_v3,
    mixtral,
    qwen3_moe,
    phi3,
    gemma,
    gemma2,
    gemma3,
    cohere,
    cohere2,
    stablelm,
    phi,
    persimmon,
    starcoder2,
    nemotron,
    openai_gpt,
    gpt_neo,
    gpt_neox,
    bloom,
    gpt_bigcode,
    falcon,
    opt,
    biogpt,
    gpt_oss,
    llama4,
    t5,
    switch_transformers,
    bart,
    bert,
    roberta,
    electra,
    longformer,
    xlnet,
)
FAMILIES = {module.FAMILY.model_type: module.FAMILY for module in _TABLES}
# What tables call the sublayers of each kind; attention to an encoder is cross_attention.
_SUBLAYERS = {"attention": "attention", "feedforward": "mlp"}
_ROUTER_LOSSES = ("balance", "z")
_NO_POSITION = Component("position", "none", ())


def from_hf(directory: str | pathlib.Path) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """The experiment config and the float32 parameters of a checkpoint in Hugging Face layout.

    Raises UserError when there is something in it that the model cannot express, or a tensor is missing, extra or misshapen.
    """
    with files.Checkpoint(directory) as checkpoint:
        family, section = read_config(checkpoint.config, str(checkpoint.directory / files.CONFIG), checkpoint.names)
        config = config_lib.experiment(section, name=checkpoint.directory.resolve().name).lock()
        links, shapes = link(family, spec.model(section), checkpoint.config)
        stored = _stored_names(family, links, checkpoint.names)
        _check_tensors(family, links, checkpoint, stored)
        return config, fill(links, shapes, lambda name: checkpoint.read(stored[name]))


def to_hf(
    config: ml_collections.ConfigDict,
    params: Mapping[str, Any],
    directory: str | pathlib.Path,
    dtype: str = "float32",
    shard_bytes: float = 5e9,
    model_type: str | None = None,
    net: str = "model",
) -> None:
    """Writes a checkpoint in Hugging Face layout, split into files of at most `shard_bytes`. The directory may not hold one yet.

    net: "model", or the "generator" beside it. Raises UserError when no family, or not the given one, computes this model, or the
    parameters are not this model's.
    """
    nets = model_lib.nets(spec.model(config.model.to_dict()), params)
    if net not in nets:
        raise UserError(f"to_hf: net: cannot be {net!r} (allowed: {', '.join(nets)})")
    model, params = nets[net]
    family, values = write_config(model, model_type)
    links, shapes = link(family, model, values)
    leaves = _leaves(params, model, shapes)
    values = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "dtype": dtype,
        # A config knows no tokenizer; without these lines from_pretrained would assume those of the family's first one.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **values,
    }
    doubles = family.doubles(values)
    tensors = (double for tensor in empty(links, leaves) for double in _doubled(tensor, doubles))
    files.write(directory, values, tensors, dtype, shard_bytes)


def read_config(
    values: Mapping[str, Any], source: str = files.CONFIG, tensors: Collection[str] = ()
) -> tuple[Family, dict[str, Any]]:
    """The family and our `model` section of a config.json, beside which there are `tensors` of these names.

    Raises UserError naming the field that cannot be expressed.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f"{source}: model_type: cannot be {model_type!r}{nearest(model_type, FAMILIES)}")
    family, fields = FAMILIES[model_type], Fields(values, source, tensors)
    section = family.section(fields)
    fields.finish((*INERT, *family.inert), {**FIXED, **family.fixed})
    return family, section


def write_config(model: spec.Model, model_type: str | None = None) -> tuple[Family, dict[str, Any]]:
    """The given family, or the first that computes the same function, and its config.json.

    Raises UserError with the nearest family's differences.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise UserError(f"to_hf: unknown family '{model_type}'{nearest(model_type, FAMILIES)}")
    ours, reasons = facts(model), []
    for family in FAMILIES.values() if model_type is None else [FAMILIES[model_type]]:
        try:
            values = family.hf_config(model)
            theirs = facts(spec.model(read_config({"model_type": family.model_type, **values})[1]))
        except UserError as e:
            reasons.append((0 if getattr(e, "near", False) else len(ours), f"{family.model_type}: {e}"))
            continue
        different = [key for key in dict.fromkeys((*ours, *theirs)) if ours.get(key) != theirs.get(key)]
        if not different:
            return family, values
        shown = ", ".join(f"{key} would be {theirs.get(key)!r}, not {ours.get(key)!r}" for key in different[:3])
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        reasons.append((len(different), f"{family.model_type}: {shown}{more}"))
    reasons.sort(key=lambda reason: reason[0])
    allowed = f" (allowed: {', '.join(FAMILIES)})" if model_type is None else ""
    raise UserError(f"to_hf: no family computes this model; nearest {reasons[0][1]}{allowed}")


def facts(model: spec.Model) -> dict[str, Any]:
    """What determines the function a model computes, in one spelling, by place.

    Initial values do not count, nor do the weights of routers' losses and how fast their biases move.
    """
    lengths = ("context",)
    if "encoder" in model.stacks:
        # Where positions have no bound, these are lengths of training: neither stack knows the other's.
        lengths = ("context", "inputs") if model_lib.position_limit(model) else ()
    found = {key: getattr(model, key) for key in ("structure", "vocab", "d_model", *lengths)}
    found["output_scale"] = model.output_scale(model.d_model)

    def add(place: str, value: Any) -> None:
        if isinstance(value, tuple):
            for i, item in enumerate(value):
                add(f"{place}[{i}]", item)
        elif isinstance(value, Component):
            value = _one_spelling(value)
            found[place] = value.name
            for name, argument in value.arguments:
                if value.kind == "router" and name == "bias_rate":
                    argument = argument is not None
                if name != "initializer" and not (value.kind == "router" and name in _ROUTER_LOSSES):
                    add(f"{place}.{name}", argument)
        else:
            found[place] = value

    add("embedding", _without_idle_position(model.embedding, "embed"))
    for stack_name, layers in model.stacks.items():
        for i, block in enumerate(layers):
            add(f"{stack_name}[{i}]", model.block(block))
    add("encoder_norm", model.encoder_norm)
    add("final_norm", model.final_norm)
    add("head", model.head)
    return found


def _one_spelling(part: Component) -> Component:
    """Attention by its number of key-value heads, with every default that follows from other arguments written out."""
    if part.kind != "attention":
        return part
    if part.name in MULTI_HEAD:
        arguments = {**dict(part.arguments), "kv_heads": kv_heads(part)}
        if arguments["out_bias"] is None:
            arguments["out_bias"] = arguments["bias"]
        part = dataclasses.replace(part, name="gqa", arguments=tuple(sorted(arguments.items())))
    # Positions play no part in attention to an encoder.
    crossing = part.get("source") == "encoder"
    part = part.replace(position=_NO_POSITION) if crossing else _without_idle_position(part, "attend")
    position = part["position"]
    if position.get("dims", 0) is None:
        part = part.replace(position=position.replace(dims=part.get("rotary_dim") or part["head_dim"]))
    return part


def _without_idle_position(part: Component, *hooks: str) -> Component:
    """The component with `none` for a position that does nothing in this place."""
    position = part.get("position")
    if position is None:
        return part
    factory = registry.find(("position",), position.name).factory
    idle = all(getattr(factory, hook) is getattr(NoPosition, hook) for hook in hooks)
    return part.replace(position=_NO_POSITION) if idle else part


@dataclasses.dataclass(frozen=True)
class Link:
    """A row at one place: their tensors (`names`, each of `shape`) and ours (a path and an index on its leading axes)."""

    row: Row
    names: tuple[str, ...]
    shape: Shape
    ours: tuple[tuple[str, tuple[int, ...]], ...]
    shapes: tuple[Shape, ...]
    known: Mapping[str, int]


def link(family: Family, model: spec.Model, hf_config: Mapping[str, Any]) -> tuple[list[Link], dict[str, Shape]]:
    """Every row at every place where it applies, in the order of the layers, and the shapes of our parameters by path.

    Raises UserError when a parameter has no row or several.
    """
    shapes = _shapes(model)
    rows = [row for row in family.rows if row.when is None or row.when(hf_config)]
    links = [_place(row, None, shapes, (), {}) for row in rows if "{layer}" not in row.theirs]
    for name, layers in model.stacks.items():
        mine = [row for row in rows if "{layer}" in row.theirs and row.paths[0].startswith(f"{name}/")]
        for i, (block, path, index) in enumerate(stack.locations(layers)):
            sublayers = _sublayers(model.block(block))
            links += [_place(row, i, shapes, index, sublayers, "/".join(path)) for row in mine]
    links = [one for one in links if one is not None]
    _check_rows(family, links, shapes)
    return links, shapes


def _shapes(model: spec.Model) -> dict[str, Shape]:
    abstract = jax.eval_shape(model_lib.build(model).init, jax.random.key(0), **model_lib.blank(model))
    flat = traverse_util.flatten_dict(nn.meta.unbox(abstract["params"]), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _sublayers(block: Component) -> dict[str, tuple[str, dict[str, int]]]:
    """What tables call each sublayer: its name in the parameters, and its numbers."""
    parts = block["sublayers"]
    kinds = _numbered([_kind(part) for part in parts])
    names = _numbered([part.label for part in parts])
    return {kind: (name, _numbers(part)) for kind, name, part in zip(kinds, names, parts, strict=True)}


def _kind(sublayer: Component) -> str:
    return "cross_attention" if sublayer.get("source") == "encoder" else _SUBLAYERS.get(sublayer.kind, sublayer.label)


def _numbered(labels: list[str]) -> list[str]:
    """As a block names its sublayers: one that comes again has a number."""
    earlier = [labels[:i].count(label) for i, label in enumerate(labels)]
    return [f"{label}_{count + 1}" if count else label for label, count in zip(labels, earlier, strict=True)]


def _numbers(sublayer: Component) -> dict[str, int]:
    """The numbers of a sublayer, which are sizes of the axes that have their names."""
    numbers = {name: value for name, value in sublayer.arguments if type(value) is int}
    return {**numbers, "kv_heads": kv_heads(sublayer)} if sublayer.name in ("mha", "mqa") else numbers


def _place(row: Row, layer: int | None, shapes, index, sublayers, path: str = "") -> Link | None:
    """The row at one layer, or None where the model has not got its parameters."""
    ours = tuple((_named(p, sublayers).format(layer=path), index) for p in row.paths)
    if any(p not in shapes for p, _ in ours):
        return None
    parts = tuple(shapes[p][len(index) :] for p, _ in ours)
    sublayer = row.paths[0].partition("{layer}/")[2].partition("/")[0]
    _, sizes = sublayers.get(sublayer, ("", {}))
    whole = row.rearrangement.theirs_shape(parts, sizes)
    counted = len(row.counters)
    return Link(row, tuple(row.names(layer, whole[:counted])), whole[counted:], ours, parts, sizes)


def _named(path: str, sublayers: Mapping[str, tuple[str, Any]]) -> str:
    """A path of a table, where a sublayer and its norms have the name that the model gives them."""
    before, layer, inside = path.partition("{layer}/")
    part, slash, rest = inside.partition("/")
    for kind, (name, _) in sublayers.items():
        if part in (kind, f"{kind}_norm", f"{kind}_post_norm"):
            return f"{before}{layer}{name}{part.removeprefix(kind)}{slash}{rest}"
    return path


def _check_rows(family: Family, links: list[Link], shapes: Mapping[str, Shape]) -> None:
    covered = {}
    for one in links:
        for path, _ in one.ours:
            rows = covered.setdefault(path, set())
            rows.add(one.row.theirs)
    several = [path for path, rows in covered.items() if len(rows) > 1]
    if several:
        raise UserError(f"{family.model_type}: more than one row for {_some(several)}")
    uncovered = [path for path in shapes if path not in covered]
    if uncovered:
        blocks = {path.split("/")[2] for row in family.rows for path in row.paths if "{layer}" in path}
        raise UserError(
            f"{family.model_type}: no row for the parameter {_some(uncovered)} "
            f"(in a layer, the parts of this family are called: {', '.join(sorted(blocks))})"
        )


def _stored_names(family: Family, links: list[Link], names: set[str]) -> dict[str, str]:
    """From the name a table uses to the name in the file."""
    stored = {_today(family, name): name for name in names}
    if not any(name.startswith(family.prefix) for name in stored):
        # Only the base model was saved.
        full = [one for one in (*(row.theirs for row in family.rows), *family.buffers) if one.startswith(family.prefix)]
        bare = {one.removeprefix(family.prefix).split(".")[0] for one in full}
        stored = {(family.prefix + name if name.split(".")[0] in bare else name): old for name, old in stored.items()}
    needed = {name for one in links for name in one.names}
    for double, name in family.tied.items():
        if name in needed and name not in stored and double in stored and double not in needed:
            stored[name] = stored.pop(double)
    return stored


def _today(family: Family, name: str) -> str:
    """The name of a tensor that was stored under an earlier one."""
    old = next((ending for ending in family.earlier if name.endswith(ending)), "")
    return name.removesuffix(old) + family.earlier[old] if old else name


def _check_tensors(family: Family, links: list[Link], checkpoint: files.Checkpoint, stored: Mapping[str, str]) -> None:
    """Every tensor has its place and shape, before any is read."""
    needed = {name: one.shape for one in links for name in one.names}
    buffers = [re.compile(re.escape(b).replace(r"\{layer\}", r"\d+")) for b in (*family.buffers, *family.zeros)]
    missing = [name for name in needed if name not in stored]
    extra = [name for name in stored if name not in needed and not any(b.fullmatch(name) for b in buffers)]
    for name in [name for name in extra if family.tied.get(name) in needed]:
        double = family.tied[name]
        if double in stored and not _equal(checkpoint, stored[name], stored[double]):
            raise UserError(f"from_hf: {name} differs from {double}: set tie_word_embeddings to false in {files.CONFIG}")
        extra.remove(name)
    misshapen = {n: (checkpoint.shape(stored[n]), shape) for n, shape in needed.items() if n in stored}
    misshapen = [f"{n} is {list(a)}, not {list(b)}" for n, (a, b) in misshapen.items() if a != b]
    nonzero = [name for name in family.zeros if name in stored and checkpoint.read(stored[name]).any()]
    problems = {"missing": missing, "unexpected": sorted(extra), "wrong shape": misshapen, "not zero": nonzero}
    if any(problems.values()):
        shown = "; ".join(f"{problem}: {_some(names)}" for problem, names in problems.items() if names)
        raise UserError(f"from_hf: the tensors of {checkpoint.directory} do not fit its {files.CONFIG}; {shown}")


def _equal(checkpoint: files.Checkpoint, one: str, other: str) -> bool:
    return checkpoint.shape(one) == checkpoint.shape(other) and np.array_equal(checkpoint.read(one), checkpoint.read(other))


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fill(links: list[Link], shapes: Mapping[str, Shape], read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """Our parameters, from the tensors that `read` gives by name."""
    params = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for one in links:
        tensors = [read(name) for name in one.names]
        counts = one.row.rearrangement.theirs_shape(one.shapes, one.known)
        theirs = (np.stack(tensors) if one.row.counters else tensors[0]).reshape(counts)
        parts = one.row.rearrangement.to_ours(theirs, one.shapes, one.known)
        for (path, index), part in zip(one.ours, parts, strict=True):
            params[path][index] = part
    return traverse_util.unflatten_dict(params, sep="/")


def empty(links: list[Link], leaves: Mapping[str, Any]) -> Iterator[files.Tensor]:
    """Their tensors, from our parameters by path: the inverse of `fill`. A tensor is made when it is asked for."""

    @functools.lru_cache(maxsize=1)  # the tensors of one link are asked for one after another
    def tensors(number: int) -> np.ndarray:
        one = links[number]
        parts = [np.asarray(leaves[path][index]) for path, index in one.ours]
        return one.row.rearrangement.to_theirs(parts, one.known).reshape(len(one.names), *one.shape)

    for number, one in enumerate(links):
        for i, name in enumerate(one.names):
            yield name, one.shape, lambda number=number, i=i: tensors(number)[i]


def _doubled(tensor: files.Tensor, doubles: Mapping[str, str]) -> Iterator[files.Tensor]:
    """A tensor under its name, and under those that stand for it."""
    yield tensor
    for name, of in doubles.items():
        if of == tensor[0]:
            yield name, *tensor[1:]


def _leaves(params: Mapping[str, Any], model: spec.Model, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Parameters by path, checked against the model's."""
    params = nn.meta.unbox(dict(params))
    for name, layers in model.stacks.items():
        if name in params and not stack.is_stacked(params[name]):
            params[name] = stack.restack(params[name], layers)
    leaves = traverse_util.flatten_dict(params, sep="/")
    wrong = [path for path in dict.fromkeys((*shapes, *leaves)) if path not in leaves or shapes.get(path) != np.shape(leaves[path])]
    if wrong:
        raise UserError(f"to_hf: the parameters are not this model's: {_some(wrong)}")
    return leaves
