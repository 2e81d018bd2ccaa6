"""Checkpoints: state, position in the data and config in one Orbax composite, checked when they are read back.

A step directory commits as a whole or not at all. Each array's sha256 is stored with it, because Orbax does not notice a flipped
bit; a damaged step is moved to `quarantine/` and the one before it is used.
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
from taxonomy.errors import NoCheckpoint, UserError

FOLDER = "checkpoints"
QUARANTINE = "quarantine"
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


def digests(tree: Any) -> dict[str, str]:
    """sha256 of every array, by path. Arrays must be addressable from this process."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(np.asarray(leaf))
        found[jax.tree_util.keystr(path)] = hashlib.sha256(array.tobytes()).hexdigest()
    return found


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

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves in the background; the next save and `close` wait for it."""
        ocp = _orbax()
        addressable = all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state))
        meta = {**meta, "step": step, "arrays": _arrays(state), "digests": digests(state) if addressable else {}}
        meta["sha256"] = _seal(meta)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
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
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            return self.manager().restore(step, args=args)["state"]

        return self._newest(read, report, quarantine=True)

    def restore_params(self, report: Callable[[str], None]) -> tuple[Any, dict]:
        """The parameters alone, as host arrays in a nested dict, and the meta; nothing is moved. Raises NoCheckpoint."""
        ocp = _orbax()

        def read(step: int, meta: dict) -> Any:
            path = self.folder / str(step) / "state"
            with ocp.PyTreeCheckpointer() as reader:
                tree = reader.metadata(path).item_metadata.tree
                item = {"params": jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree["params"])}
                kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
                return reader.restore(path, args=ocp.args.PyTreeRestore(item, restore_args=kinds, partial_restore=True))

        found = self._newest(read, report, quarantine=False)
        if found is None:
            raise NoCheckpoint(f"{self.folder.parent}: no checkpoint there (expected {self.folder}/STEP)")
        state, meta = found
        return state["params"], meta

    def _newest(self, read: Callable[[int, dict], Any], report: Callable[[str], None], quarantine: bool) -> tuple[Any, dict] | None:
        steps = self.steps()
        for step in reversed(steps):
            try:
                meta = json.loads((self.folder / str(step) / "meta" / "metadata").read_text())
                if meta["sha256"] != _seal(meta):
                    raise ValueError("digest of the metadata differs")
                with _quietly():
                    state = read(step, meta)
                _verify(state, meta["digests"])
                return state, meta
            except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last: out of device memory
                raise
            except PermissionError as e:
                raise NoCheckpoint(f"checkpoint {step}: {e}") from None
            except Exception as e:  # damage shows as many types: JSON, tensorstore, missing files, digests
                reason = (str(e).splitlines() or [type(e).__name__])[0][:120]
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

    def _quarantine(self, step: int) -> None:
        self.close()
        target = self.folder / QUARANTINE / str(step)
        target.parent.mkdir(exist_ok=True)
        number = 1
        while target.exists():
            target, number = target.with_name(f"{step}.{number}"), number + 1
        (self.folder / str(step)).rename(target)


def _verify(state: Any, expected: dict[str, str]) -> None:
    """Compares the digests of what was read with what was written, by the end of the path where only a part was read."""
    if not expected:
        return
    for path, digest in digests(state).items():
        # Attributes of a dataclass and keys of a dict print differently: .params and ['params'].
        names = (path, path.replace("['params']", ".params", 1))
        wanted = next((expected[n] for n in names if n in expected), None)
        if wanted != digest:
            raise ValueError(f"digest of {path} differs")


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


def restore_params(workdir: str | pathlib.Path) -> tuple[ml_collections.ConfigDict, Any]:
    """The config and the parameters (scanned layout, host arrays) of the newest good checkpoint of a workdir."""
    if not pathlib.Path(workdir).is_dir():
        raise NoCheckpoint(f"--workdir: no directory {workdir}")
    params, meta = Checkpoints(workdir).restore_params(lambda line: print(line, file=sys.stderr))
    return config_lib.from_json(json.dumps(meta["config"])), params


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
