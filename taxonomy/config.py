"""Experiments: a model section, a training recipe, data, and where the numbers come from.

A config is an ml_collections ConfigDict made by `experiment(...)`: closed (no unknown keys) and typed (by the defaults below).
`load_config("gpt3:6.7b", {"model.position": "alibi"})` finds the family's page in `configs/`, or takes a path to one.
"""

import ast
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from taxonomy.errors import UserError, nearest

# Every key of an experiment besides the model's, with its default. A type stands for a key that may stay None. train.ahead: what
# the loss of the modules of model.ahead counts beside that of the next token; it may change when a run goes on.
# train.pipeline_microbatches: in how many parts a microbatch (of microbatch_tokens, or the batch) passes through the stages of the
# mesh; a multiple of the stages. None: four for each stage, or as many as divide the rows. Without stages it is not read.
DEFAULTS: dict[str, Any] = {
    "name": "",
    "seed": 0,
    "mesh": "data:-1",
    "train": {
        "steps": int,
        "tokens": float,
        "batch_tokens": 16384,
        "batch_ramp": str,
        "microbatch_tokens": int,
        "pipeline_microbatches": int,
        "context": int,
        "objective": "causal",
        "optimizer": "adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
        "schedule": "cosine(peak=3e-4, warmup='1%', final=0.1)",
        "clip": 1.0,
        "loss": "cross_entropy",
        "ahead": float,
        "dtype": "bfloat16",
        "remat": "none",
        "scan": True,
        "attention": "auto",
        "experts": "auto",
        "loss_chunk": 1024,
        "stream": "whole",
        "log_every": 10,
        "max_skipped": 3,
    },
    "data": {"source": "stdlib()", "tokenizer": "sentencepiece(vocab=vocab)"},
    # max_tokens None: as many as eight training batches have, at most a million.
    # metrics: those of kind "metric", of greedy answers to so many held-out pairs, for the objective pairs.
    "evaluation": {"every": "10%", "batch_tokens": 16384, "max_tokens": float, "metrics": (), "pairs": 200},
    "checkpoint": {"every": "10%", "keep": 2, "asynchronous": True},
    "report": {"prompts": ("",), "new_tokens": 64, "sampler": "top_p(p=0.95, temperature=0.8)", "compressors": False},
    "about": {
        "paper": "",
        "facts": "",
        "published": float,
        "sources": (),
        "unsure": (),
        "notes": "",
        "verified_against": "",
    },
}
# The recipe of every `tiny` size: a few steps of a few short documents, for tests and first tries.
TINY_TRAINING: dict[str, Any] = {
    "steps": 100,
    "batch_tokens": 1024,
    "schedule": "cosine(peak=3e-3, warmup='10 steps', final=0.1)",
    "dtype": "float32",
}
# Keys with a default that may be None all the same.
_MAY_BE_NONE = ("train.clip",)
# The page of systems that cannot have one.
_UNDISCLOSED = "undisclosed"
_MODEL_KEYS = (
    "vocab",
    "d_model",
    "context",
    "norm",
    "position",
    "mask",
    "initializer",
    "parametrization",
    "attention",
    "mlp",
    "blocks",
    "encoder",
    "decoder",
    "inputs",
    "embedding",
    "head",
    "final_norm",
    "encoder_norm",
    "ahead",
)
_IN_MODEL = (["model"], ["model", "generator"])


def experiment(model: Mapping[str, Any], **sections: Any) -> ml_collections.ConfigDict:
    """A complete config: `model` as given, the other sections over their defaults. Unknown keys and wrong types are errors."""
    config = _defaults(DEFAULTS)
    config.model = ml_collections.ConfigDict(dict(model))
    for section, value in sections.items():
        pairs = [(f"{section}.{k}", v) for k, v in value.items()] if isinstance(value, Mapping) else [(section, value)]
        for key, v in pairs:
            assign(config, key, v)
    return config


def derived(base: str, **sections: Any) -> ml_collections.ConfigDict:
    """The config of another page with sections changed: `model` key by key, the others written anew over the defaults.

    Nothing that the base says about itself is kept but what its model was verified against.
    """
    inherited = load_config(base).to_dict()
    changes = sections.pop("model", {})
    about = {} if changes else {"verified_against": inherited["about"]["verified_against"]}
    kept = {section: value for section, value in inherited.items() if section not in ("name", "model", "about")}
    return experiment(inherited["model"] | changes, **kept | sections | {"about": about | sections.get("about", {})})


def _defaults(tree: Mapping[str, Any]) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    for key, value in tree.items():
        if isinstance(value, Mapping):
            value = _defaults(value)
        elif isinstance(value, type):
            value = ml_collections.config_dict.placeholder(value)
        config[key] = value
    return config


def assign(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    """Sets the dotted `key`; a string is read as the key's type. Raises UserError naming the key, the value and what is allowed."""
    *sections, last = key.split(".")
    node = config
    for depth, section in enumerate(sections):
        if not isinstance(node, ml_collections.ConfigDict) or section not in node:
            raise _unknown(".".join(sections[: depth + 1]), section, node)
        node = node[section]
    if not isinstance(node, ml_collections.ConfigDict):
        raise UserError(f"config.{key}: '{'.'.join(sections)}' has no keys of its own")
    in_model = sections[:1] == ["model"]
    if last not in node and not (sections in _IN_MODEL and last in _MODEL_KEYS):
        raise _unknown(key, last, node, _MODEL_KEYS if sections in _IN_MODEL else ())
    kind = node.get_type(last) if last in node else _model_type(last)
    if kind is type(None):
        kind = _model_type(last) if in_model else str
    optional = in_model or isinstance(_default(key), type) or key in _MAY_BE_NONE
    value = _typed(key, value, kind, optional)
    with node.unlocked():
        node[last] = value


def _unknown(key: str, last: str, node: Any, also: tuple[str, ...] = ()) -> UserError:
    allowed = [*(node.keys() if isinstance(node, ml_collections.ConfigDict) else ()), *also]
    return UserError(f"config.{key}: unknown key '{last}'{nearest(last, allowed)}")


def _model_type(key: str) -> type:
    return int if key in ("vocab", "d_model", "context", "inputs") else str


def _default(key: str) -> Any:
    node = DEFAULTS
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _typed(key: str, value: Any, kind: type, optional: bool) -> Any:
    if isinstance(value, ml_collections.ConfigDict) or kind is ml_collections.ConfigDict:
        raise UserError(f"config.{key}: is a section; set one of its keys")
    if value is None or value == "None":
        if not optional:
            raise UserError(f"config.{key}: expected {kind.__name__}, got None")
        return None
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise UserError(f"config.{key}: expected {kind.__name__}, got {value!r}") from None
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is tuple and isinstance(value, (list, str)):
        return tuple(value) if isinstance(value, list) else (value,)
    if type(value) is not kind:
        raise UserError(f"config.{key}: expected {kind.__name__}, got {value!r}")
    return value


def folder() -> pathlib.Path:
    """Where the pages of the published families are."""
    found = importlib.util.find_spec("taxonomy.configs")
    if found and found.submodule_search_locations:
        return pathlib.Path(next(iter(found.submodule_search_locations)))
    return pathlib.Path(__file__).parent.parent / "configs"


def families() -> list[str]:
    """The published families that have a page."""
    return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_") and p.stem != _UNDISCLOSED)


def sizes(family: str) -> list[str]:
    """The sizes of a page, `tiny` last."""
    return list(getattr(_page(family), "SIZES", {"": None}))


def undisclosed() -> dict[str, tuple[str, str, str, str]]:
    """Systems whose architecture is not public, by name: organisation, date, what is public, source."""
    return dict(_module(folder() / f"{_UNDISCLOSED}.py").SYSTEMS)


def _page(name: str) -> Any:
    path = pathlib.Path(name) if name.endswith(".py") else folder() / f"{name}.py"
    if not path.is_file():
        if name.endswith(".py"):
            raise UserError(f"config: no file {name}")
        for system, (organisation, _, public, _) in undisclosed().items():
            if _letters(system) == _letters(name):
                known = public.rstrip(".")
                raise UserError(
                    f"{system}: {organisation} has not disclosed its architecture, so it cannot be built (public: {known})"
                )
        raise UserError(f"config: no file {path.name}{nearest(name, families())}")
    module = _module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"config: {name} defines no get_config(size)")
    return module


def _module(path: pathlib.Path) -> Any:
    module_spec = importlib.util.spec_from_file_location(f"taxonomy_config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def load_config(name: str, overrides: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """The experiment `FAMILY_OR_FILE[:size[,key=value...]]` with dotted overrides, locked. Raises UserError."""
    place, _, argument = name.partition(":")
    size, *pairs = split(argument)
    if "=" in size:
        size, pairs = "", [size, *pairs]
    page = _page(place)
    known = getattr(page, "SIZES", None)
    if size and known is None:
        raise UserError(f"config: {place} has no sizes, got '{size}'")
    if size and size not in known:
        raise UserError(f"config: {place} has no size '{size}'{nearest(size, known)}")
    config = page.get_config(size) if size else page.get_config()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"config: expected key=value after the size, got '{pair}'")
        assign(config, key, value)
    for key, value in (overrides or {}).items():
        assign(config, key, value)
    if not config.name:
        config.name = f"{pathlib.Path(place).stem}:{size}" if size else pathlib.Path(place).stem
    return config.lock()


def split(text: str) -> list[str]:
    """Splits at commas that are not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def to_json(config: ml_collections.ConfigDict) -> str:
    """The resolved config as JSON; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> ml_collections.ConfigDict:
    """A locked config from the JSON that a run saved."""
    sections = json.loads(text)
    return experiment(sections.pop("model"), **sections).lock()
