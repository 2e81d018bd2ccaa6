"""Shared by all tests: simulated devices, a compilation cache, and every family's tiny model with random parameters.

family                      parametrises a test over every decoder family with a size `tiny`, once for each different model
encoder_family              the same for families with an encoder
tiny(family)                its config, its parsed model and random parameters, made once a session
packed(vocab, time, rows)   a random batch of documents packed into rows
nudged(model, ...)          logits with an offset added to the embedded inputs, to differentiate by

A test marked `slow_by_family` is taken once for all families made of the same components, with whatever arguments.
"""

import functools
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Programs run once: compiling them takes most of the time of a test.
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import spec as spec_lib
from taxonomy.layers.params import Declared
from taxonomy.model import Transformer, blank, build

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Tiny(NamedTuple):
    """A family's smallest model, as it is after training. `model(scan=False)` builds it with another execution.

    The parameters are unboxed.
    """

    config: Any
    spec: spec_lib.Model
    params: Any

    def model(self, **execution: Any) -> Transformer:
        return build(self.spec, **execution)

    def logits(self, params: Any, *inputs: Any, **execution: Any) -> jax.Array:
        """The model's logits, compiled once a session for each execution and shape."""
        return _apply(self.model(**execution), params, *inputs)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Transformer, params: Any, *inputs: Any) -> jax.Array:
    return model.apply({"params": params}, *inputs)


class Packed(NamedTuple):
    """A batch of packed documents, arrays (rows, time). Padding has segment 0 and weight 0."""

    tokens: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    weights: np.ndarray

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a model reads: tokens, positions, segments."""
        return self.tokens, self.positions, self.segments


def _distinct(encoder: bool) -> list[str]:
    """The families that have a size `tiny`, one for each different model: recipes share the model they train."""
    found = {}
    for family in config_lib.families():
        try:
            if "tiny" not in config_lib.sizes(family):
                continue
            section = config_lib.load_config(f"{family}:tiny").model.to_dict()
            model, has_encoder = json.dumps(section, sort_keys=True), "encoder" in section
        except Exception:  # a page that cannot be read fails its own tests, not the collection of all others
            model, has_encoder = family, False
        if has_encoder == encoder:
            found.setdefault(model, family)
    return list(found.values())


def _random_params(module: nn.Module, *inputs: Any, seed: int = 0, **others: Any) -> Any:
    """Random parameters in which nothing is one or zero, so that no gain, bias or scale can be forgotten unnoticed."""
    boxed = jax.eval_shape(lambda key: module.init(key, *inputs, **others), jax.random.key(0)).get("params", {})

    def draw(path, box: Declared):
        # A seed of its own for each path: the same parameter is the same array whatever else the model has.
        generator = np.random.default_rng([seed, zlib.crc32(jax.tree_util.keystr(path).encode())])
        normal = generator.standard_normal(box.value.shape).astype(np.float32)
        if box.role == "gain":
            return jnp.asarray(1 + 0.3 * normal)
        if box.role == "bias":
            return jnp.asarray(0.2 * normal)
        return jnp.asarray(normal * (0.5 if box.role in ("embedding", "position") else box.fan_in**-0.5))

    return jax.tree_util.tree_map_with_path(draw, boxed, is_leaf=lambda x: isinstance(x, Declared))


@functools.cache
def _tiny(family: str) -> Tiny:
    config = config_lib.load_config(f"{family}:tiny")
    if config.model.get("ahead"):  # has a test of its own
        config = config_lib.load_config(f"{family}:tiny", {"model.ahead": None, "train.ahead": None})
    model = build(config.model)
    return Tiny(config, model.spec, _random_params(model, **blank(model.spec, time=8)))


def _packed(vocab: int, time: int = 96, rows: int = 2, longest: int = 40, padding: int = 5, seed: int = 0) -> Packed:
    generator = np.random.default_rng(seed)
    tokens, targets = generator.integers(0, vocab, (2, rows, time), dtype=np.int32)
    positions, segments = np.zeros((2, rows, time), np.int32)
    for row in range(rows):
        start, document = 0, 0
        while start < time - padding:
            length = min(int(generator.integers(1, longest + 1)), time - padding - start)
            positions[row, start : start + length] = np.arange(length)
            document, start = document + 1, start + length
            segments[row, start - length : start] = document
        positions[row, start:] = np.arange(time - start)
    # The last token of a document has no next one.
    followed = np.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (0, 1)))
    targets[:, :-1] = np.where(followed[:, :-1], tokens[:, 1:], targets[:, :-1])
    return Packed(tokens, targets, positions, segments, (followed & (segments > 0)).astype(np.float32))


def _nudged(model: Transformer, params: Any, batch: tuple, offset_BTD: jax.Array) -> jax.Array:
    def add(next_call, args, kwargs, call):
        y = next_call(*args, **kwargs)
        return y + offset_BTD if call.module.name == "embedding" and call.method_name == "__call__" else y

    with nn.intercept_methods(add):
        return model.apply({"params": params}, *batch)


def _alike(families: list[str]) -> set[str]:
    """The families that have the same components as one before them."""
    first: dict[tuple, str] = {}
    for family in families:
        try:
            model = spec_lib.model(config_lib.load_config(f"{family}:tiny").model)
        except Exception:  # see `_distinct`
            continue
        ideas = frozenset((part.kind, part.name) for part in model.components())
        first.setdefault((ideas, tuple(model.stacks)), family)
    return set(families) - set(first.values())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    repeated = _alike(_distinct(encoder=False))

    def wanted(item: pytest.Item) -> bool:
        family = getattr(item, "callspec", None) and item.callspec.params.get("family")
        return item.get_closest_marker("slow_by_family") is None or family not in repeated

    items[:] = filter(wanted, items)


@pytest.fixture(params=_distinct(encoder=False), scope="session")
def family(request) -> Iterator[str]:
    yield request.param
    # Every compiled program keeps its memory maps, of which a process may have 65530.
    jax.clear_caches()


@pytest.fixture(params=_distinct(encoder=True), scope="session")
def encoder_family(request) -> Iterator[str]:
    yield request.param
    jax.clear_caches()


@pytest.fixture(scope="session")
def tiny():
    return _tiny


@pytest.fixture(scope="session")
def random_params():
    return _random_params


@pytest.fixture(scope="session")
def packed():
    return _packed


@pytest.fixture(scope="session")
def nudged():
    return _nudged
