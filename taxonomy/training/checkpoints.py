"""Checkpoints: state, position in the data and config in one Orbax composite, checked when they are read back.

A step directory commits as a whole or not at all. A checksum of each array is stored with it, because Orbax does not notice a
flipped bit; a damaged step is moved to `quarantine/` and the one before it is used. Of several processes each writes and reads
its own shards, and all take the same step.
"""

import contextlib
import gc
import hashlib
import importlib.metadata
import io
import json
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from taxonomy import config as config_lib
from taxonomy import distributed
from taxonomy.errors import NoCheckpoint, UserError

FOLDER = "checkpoints"
QUARANTINE = "quarantine"
CHUNK = 64 * 2**20  # bytes that are read at once, so that a device which has a part of an array does not read all of it
SECONDS_TO_END = 0.3  # what abandoned reads are given
# Keys that decide what the arrays mean or which data comes next; the others may change when a run is resumed.
FROZEN_KEYS = (
    "model",
    "seed",
    "data",
    "train.optimizer",
    "train.scan",
    "train.batch_tokens",
    "train.batch_ramp",
    "train.context",
    "train.objective",
)


def _orbax():
    import logging

    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return ocp


def _reader(handler: Callable[..., Any]) -> Any:
    """Reads without waiting for other processes, so that one of them may fail."""
    ocp, own = _orbax(), jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    return ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """When one array cannot be read, the reads beside it are abandoned and print tracebacks as they end. One line is enough."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        except UserError:
            raise
        except Exception:
            gc.collect()
            time.sleep(SECONDS_TO_END)
            raise


def checksums(tree: Any) -> dict[str, str]:
    """A checksum of every array, by path, that depends on its elements alone: not on devices and processes it is laid out over.

    It is the sum of the elements' bits modulo 2^64, each times an odd number that belongs to its place. So no change of a single
    element goes unnoticed, and parts may be added up in any order.
    """
    leaves, partial = jax.tree_util.tree_flatten_with_path(tree)[0], []
    sums_L = np.zeros(len(leaves), np.uint64)
    for number, (_, leaf) in enumerate(leaves):
        partial.append(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable)
        sums_L[number] = np.sum([_weighed(part, index) for part, index in _parts(leaf)], dtype=np.uint64)
    if any(partial):
        all_PL = distributed.gathered(sums_L.view(np.uint32)).view(np.uint64)
        sums_L = np.where(partial, all_PL.sum(0, dtype=np.uint64), sums_L)
    return {jax.tree_util.keystr(path): f"{int(one):016x}" for (path, _), one in zip(leaves, sums_L, strict=True)}


def _parts(leaf: Any) -> Iterator[tuple[np.ndarray, tuple[slice, ...]]]:
    """The parts of an array that this process answers for, and where they are."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array):
        yield np.asarray(leaf), (slice(None),) * leaf.ndim
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            yield np.asarray(shard.data), shard.index


def _weighed(part: np.ndarray, index: tuple[slice, ...]) -> np.uint64:
    bits = np.asarray(part, order="C").view(f"u{part.dtype.itemsize}")
    for axis in reversed(range(part.ndim)):
        first = index[axis].start or 0
        bits = np.einsum("...i,i->...", bits, _odd(axis, first, first + part.shape[axis]), dtype=np.uint64)
    return np.uint64(bits)


def _odd(axis: int, first: int, last: int) -> np.ndarray:
    """Odd numbers that belong to places on an axis (SplitMix64, Steele et al. 2014)."""
    z = (np.arange(first + 1, last + 1, dtype=np.uint64) + np.uint64(axis << 48)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31)) | np.uint64(1)


def _seal(meta: dict[str, Any]) -> str:
    """sha256 of a step's metadata."""
    content = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _arrays(tree: Any) -> dict[str, str]:
    """Type and shape of every array, by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _refuse_other_arrays(step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises UserError when a checkpoint's arrays are not those of the model and the optimizer: that is no damage."""
    paths = [path for path in saved.keys() | wanted.keys() if saved.get(path) != wanted.get(path)]
    if paths:
        paths.sort(key=lambda path: (not path.startswith(".params"), path))
        shown = "; ".join(f"{path} is {saved.get(path, 'absent')}, not {wanted.get(path, 'absent')}" for path in paths[:3])
        raise UserError(f"checkpoint {step} is not one of this model and optimizer: {shown}. Use a new --workdir")


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: str | pathlib.Path, keep: int = 2, asynchronous: bool = True):
        self.folder = pathlib.Path(workdir).absolute() / FOLDER
        self._keep, self._asynchronous = keep, asynchronous
        self._manager = None

    def manager(self):
        """The Orbax manager, opened on first use."""
        if self._manager is None:
            ocp = _orbax()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                enable_async_checkpointing=self._asynchronous,
                cleanup_tmp_directories=True,
            )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.is_dir() and p.name.isdigit())

    def config(self) -> ml_collections.ConfigDict:
        """The config of the newest step whose metadata can be read. Raises NoCheckpoint."""
        for step in reversed(self.steps()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return config_lib.from_json(json.dumps(self._meta(step)["config"]))
        raise NoCheckpoint(f"{self.folder.parent}: no checkpoint there (expected {self.folder}/STEP)")

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves in the background; the next save and `close` wait for it."""
        ocp = _orbax()
        meta = {**meta, "step": step, "arrays": _arrays(state), "checksums": checksums(state)}
        meta["sha256"] = _seal(meta)
        pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state, pieces), meta=ocp.args.JsonSave(meta))
        self.manager().save(step, args=items, force=True)

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()
            self._manager = None

    def restore(
        self, abstract: Any, shardings: Any, check: Callable[[dict], None], report: Callable[[str], None]
    ) -> tuple[Any, dict] | None:
        """The newest undamaged state and its meta, None when nothing was ever saved. `check` may refuse a meta by raising.

        Damaged steps are moved aside. Raises NoCheckpoint when nothing else was ever saved, and UserError when a step holds
        other arrays than `abstract` has.
        """
        ocp = _orbax()
        target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)

        def read(step: int, meta: dict) -> Any:
            check(meta)
            _refuse_other_arrays(step, meta["arrays"], _arrays(abstract))
            with _reader(ocp.StandardCheckpointHandler) as reader:
                return reader.restore(self.folder / str(step) / "state", args=ocp.args.StandardRestore(target))

        return self._newest(read, report, quarantine=True)

    def restore_params(self, report: Callable[[str], None], shardings: Any = None) -> tuple[Any, dict]:
        """The parameters alone in a nested dict, and the meta; nothing is moved. Raises NoCheckpoint.

        They are host arrays, or where `shardings` say. Then only what this process's devices hold is read.
        """
        ocp = _orbax()

        def read(step: int, meta: dict) -> Any:
            path = self.folder / str(step) / "state"
            with _reader(ocp.PyTreeCheckpointHandler) as reader:
                tree = reader.metadata(path).item_metadata.tree
                item = {"params": jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree["params"])}
                if shardings is None:
                    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
                else:
                    kinds = {"params": jax.tree.map(lambda place: ocp.ArrayRestoreArgs(sharding=place), shardings)}
                return reader.restore(path, args=ocp.args.PyTreeRestore(item, restore_args=kinds, partial_restore=True))

        found = self._newest(read, report, quarantine=False)
        if found is None:
            raise NoCheckpoint(f"{self.folder.parent}: no checkpoint there (expected {self.folder}/STEP)")
        state, meta = found
        return state["params"], meta

    def _newest(self, read: Callable[[int, dict], Any], report: Callable[[str], None], quarantine: bool) -> tuple[Any, dict] | None:
        steps = self.steps()
        for step in reversed(steps):
            state, meta, reason = None, {}, ""
            try:
                meta = self._meta(step)
                with _quietly():
                    state = read(step, meta)
            except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last: out of device memory
                raise
            except PermissionError as e:
                raise NoCheckpoint(f"checkpoint {step}: {e}") from None
            except Exception as e:  # damage shows as many types: JSON, tensorstore, missing files
                reason = (str(e).splitlines() or [type(e).__name__])[0][:120]
            # What one process cannot read, none takes.
            reason = distributed.said_by_any(reason) or _difference(state, meta.get("checksums", {}))
            if not reason:
                return state, meta
            fate = f"moved to {FOLDER}/{QUARANTINE}" if quarantine else "left out"
            report(f"checkpoint {step} is damaged ({reason}); {fate}")
            if quarantine:
                self._quarantine(step)
        if steps:
            where = "they are in quarantine/" if quarantine else "all are damaged"
            raise NoCheckpoint(f"{self.folder}: none of the checkpoints {steps} can be read; {where}")
        if any((self.folder / QUARANTINE).glob("*")):
            # Nothing starts anew where a run has been: a second try must not do what the first refused.
            raise NoCheckpoint(f"{self.folder}: only damaged checkpoints, in quarantine/. Use a new --workdir to start again")
        return None

    def _meta(self, step: int) -> dict[str, Any]:
        meta = json.loads((self.folder / str(step) / "meta" / "metadata").read_text())
        if meta["sha256"] != _seal(meta):
            raise ValueError("digest of the metadata differs")
        return meta

    def _quarantine(self, step: int) -> None:
        self.close()
        if not distributed.first():
            return
        target = self.folder / QUARANTINE / str(step)
        target.parent.mkdir(exist_ok=True)
        number = 1
        while target.exists():
            target, number = target.with_name(f"{step}.{number}"), number + 1
        (self.folder / str(step)).rename(target)


def _difference(state: Any, expected: dict[str, str]) -> str:
    """Which array is not what was written, by the end of the path where only a part was read; nothing where all are."""
    if not expected:
        return ""
    for path, found in checksums(state).items():
        # Attributes of a dataclass and keys of a dict print differently: .params and ['params'].
        names = (path, path.replace("['params']", ".params", 1))
        if found != next((expected[n] for n in names if n in expected), None):
            return f"checksum of {path} differs"
    return ""


def refuse_changed(saved: dict[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raises UserError when a resumed run would continue with another model, optimizer, data order or seed."""
    changed = []
    ours = json.loads(config_lib.to_json(config))
    for key in FROZEN_KEYS:
        old, new = saved, ours
        for part in key.split("."):
            old, new = old.get(part), new[part]
        changed += differences(key, old, new)
    if changed:
        raise UserError(f"this workdir holds a run with another config: {'; '.join(changed[:3])}. Use a new --workdir")


def differences(key: str, old: Any, new: Any) -> list[str]:
    """What differs between two values of a config's key, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for k in sorted(old.keys() | new.keys()) for line in differences(f"{key}.{k}", old.get(k), new.get(k))]
    return [] if json.dumps(old) == json.dumps(new) else [f"config.{key} was {old!r}, is {new!r}"]


def save_params(workdir: str | pathlib.Path, config: ml_collections.ConfigDict, params: Any) -> None:
    """Makes a workdir out of parameters that come from elsewhere."""
    checkpoints = Checkpoints(workdir, asynchronous=False)
    state = {"params": jax.tree.map(jax.numpy.asarray, params)}
    checkpoints.save(0, state, {"config": json.loads(config_lib.to_json(config)), "tokens": 0, "sequences": 0})
    checkpoints.close()
    (pathlib.Path(workdir) / "config.json").write_text(config_lib.to_json(config))


def restore_params(workdir: str | pathlib.Path, shardings: Any = None) -> tuple[ml_collections.ConfigDict, Any]:
    """The config and the parameters of the newest good checkpoint of a workdir, in the layout they were trained in.

    They are host arrays, or where `shardings` say. Raises NoCheckpoint.
    """
    params, meta = _of(workdir).restore_params(lambda line: print(line, file=sys.stderr), shardings)
    return config_lib.from_json(json.dumps(meta["config"])), params


def saved_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a workdir's checkpoints. Raises NoCheckpoint."""
    return _of(workdir).config()


def _of(workdir: str | pathlib.Path) -> Checkpoints:
    if not pathlib.Path(workdir).is_dir():
        raise NoCheckpoint(f"--workdir: no directory {workdir}")
    return Checkpoints(workdir)


def restore_tokenizer(workdir: str | pathlib.Path) -> Any:
    """The tokenizer a workdir was trained or converted with. Raises UserError when there is none."""
    from taxonomy.data.tokenizers import load_tokenizer

    if not has_tokenizer(workdir):
        raise UserError(f"--workdir: {workdir} has no tokenizer; a converted one has that of the files beside its parameters")
    return load_tokenizer(pathlib.Path(workdir) / "tokenizer")


def has_tokenizer(workdir: str | pathlib.Path) -> bool:
    """Whether a workdir has the tokenizer it was trained or converted with."""
    from taxonomy.data.tokenizers import DESCRIPTION

    return (pathlib.Path(workdir) / "tokenizer" / DESCRIPTION).is_file()


def manifest(argv: list[str]) -> dict[str, Any]:
    """What a run depended on: versions, source revision, machine, command line."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "ml-collections", "numpy")
    here = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    return {
        "command": argv,
        "python": platform.python_version(),
        "packages": {p: importlib.metadata.version(p) for p in packages},
        "revision": git("rev-parse", "HEAD"),
        "modified": bool(git("status", "--porcelain")),
        "devices": [d.device_kind for d in jax.local_devices()],
        "processes": jax.process_count(),
    }
