"""Directories in Hugging Face layout: config.json, and tensors in one or several safetensors files.

Tensors are read from and written to memory-mapped files one at a time; pickles are never read.
"""

import contextlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

from taxonomy.errors import UserError, nearest

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_READABLE = ("F64", "F32", "F16", "BF16")


class Checkpoint(contextlib.AbstractContextManager):
    """The config.json and the tensors of a directory, its files open inside a `with`. Raises UserError on what cannot be read."""

    def __init__(self, directory: str | pathlib.Path):
        self.directory = pathlib.Path(directory)
        if not self.directory.is_dir():
            raise UserError(f"from_hf: {directory} is not a directory; download the checkpoint first")
        self.config = _json(self.directory / CONFIG)
        self._stack = contextlib.ExitStack()
        self._file_of: dict[str, Any] = {}
        with contextlib.ExitStack() as opening:
            for file in self._files():
                handle = opening.enter_context(_open(file))
                for name in handle.keys():  # noqa: SIM118 (a file handle, not a dict)
                    if name in self._file_of:
                        raise UserError(f"from_hf: {self.directory}: tensor {name} is in more than one file")
                    self._file_of[name] = handle
            self._stack = opening.pop_all()

    def __exit__(self, *exception) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """A tensor in the floating-point type it was stored in."""
        dtype = self._file_of[name].get_slice(name).get_dtype()
        if dtype not in _READABLE:
            raise UserError(f"from_hf: tensor {name} has type {dtype} (allowed: {', '.join(_READABLE)})")
        return self._file_of[name].get_tensor(name)

    def _files(self) -> list[pathlib.Path]:
        """The files of tensors. An index may only name files beside it."""
        if (self.directory / SINGLE).is_file():
            return [self.directory / SINGLE]
        if not (self.directory / INDEX).is_file():
            raise UserError(f"from_hf: {self.directory} has no {SINGLE}{self._other_formats()}")
        shards = _json(self.directory / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise UserError(f"from_hf: {self.directory / INDEX}: weight_map: expected an object of tensor and file names")
        for name in shards.values():
            if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
                raise UserError(f"from_hf: {self.directory / INDEX}: weight_map: {name!r} is not the name of a file beside it")
        return [self.directory / name for name in sorted(set(shards.values()))]

    def _other_formats(self) -> str:
        pickles = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")
        if not any(any(self.directory.glob(pattern)) for pattern in pickles):
            return ""
        return (
            ", only pickles, which can run code and are not read; convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)"
        )


def _json(file: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"from_hf: no file {file}") from None
    except (OSError, ValueError) as e:
        raise UserError(f"from_hf: {file} cannot be read ({e})") from None
    if not isinstance(value, dict):
        raise UserError(f"from_hf: {file}: expected an object")
    return value


def _open(file: pathlib.Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="numpy")
    except FileNotFoundError:
        raise UserError(f"from_hf: no file {file}") from None
    except (OSError, SafetensorError) as e:
        raise UserError(f"from_hf: {file} cannot be read ({e})") from None


Tensor = tuple[str, tuple[int, ...], Callable[[], np.ndarray]]


def write(directory: str | pathlib.Path, config: dict[str, Any], tensors: Iterable[Tensor], dtype: str, shard_bytes: float) -> None:
    """Writes a checkpoint into a directory that holds none. Tensors are (name, shape, how to get it).

    Files are at most `shard_bytes` long (or one tensor), and one is in memory at a time. Raises UserError.
    """
    from safetensors.numpy import save_file

    directory = pathlib.Path(directory)
    if dtype not in DTYPES:
        raise UserError(f"to_hf: unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"to_hf: {directory} is not a directory")
    taken = sorted(p.name for p in directory.glob("*") if p.name == CONFIG or p.suffix in (".safetensors", ".bin"))
    if taken:
        raise UserError(f"to_hf: {directory} already holds a checkpoint ({taken[0]}); choose another directory")
    directory.mkdir(parents=True, exist_ok=True)

    element = np.dtype(DTYPES[dtype])
    shards, size, total = [[]], 0, 0
    for tensor in tensors:
        nbytes = element.itemsize * int(np.prod(tensor[1], dtype=np.int64))
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size, total = size + nbytes, total + nbytes
    one = len(shards) == 1
    files = [SINGLE if one else f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        arrays = {name: np.ascontiguousarray(get(), dtype=element) for name, _, get in shard}
        save_file(arrays, directory / file, metadata={"format": "pt"})
    if not one:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name, _, _ in shard}
        _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    # Last: a directory with a config.json is complete.
    _write_json(directory / CONFIG, config)


def _write_json(file: pathlib.Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
