"""A run that begins with the parameters of another: its tokenizer, its parameters, and what the manifest says of it."""

import json
import pathlib
from typing import Any

import ml_collections
from flax import traverse_util

from taxonomy import stack
from taxonomy.ahead import PREFIX
from taxonomy.data.tokenizers import DESCRIPTION, Tokenizer
from taxonomy.errors import UserError
from taxonomy.training import checkpoints
from taxonomy.training.plan import Plan
from taxonomy.training.step import Trainer, TrainState

KEY = "init_from"
# The parts of a model that may be new: the head, and modules that predict further ahead.
NEW = ("head/", PREFIX)


def find(workdir: pathlib.Path, given: str | None) -> dict[str, Any] | None:
    """What the manifest says or will say: {"workdir": ...} of the run that this one begins or began from; None without one.

    Raises UserError when `given` is no run, or not the one that a run to be resumed began from.
    """
    manifest = workdir / "manifest.json"
    recorded = json.loads(manifest.read_text()).get(KEY) if manifest.is_file() else None
    place = str(pathlib.Path(given).expanduser().resolve()) if given else None
    if checkpoints.Checkpoints(workdir).steps():
        if place and place != (recorded or {}).get("workdir"):
            began = recorded["workdir"] if recorded else "no other"
            raise UserError(f"--init_from: {workdir} holds a run that began from {began}, not from {place}. Use a new --workdir")
        return recorded
    if place and not checkpoints.Checkpoints(place).steps():
        raise UserError(f"--init_from: no run with a checkpoint in {given}")
    return {"workdir": place} if place else recorded


def tokenizer(config: ml_collections.ConfigDict, recipe: Any, workdir: pathlib.Path, origin: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a run with an origin, for one must not be learned anew; None where the config's own is to be taken.

    Raises UserError when the config names another one than the parameters were trained with, or there is none.
    """
    learned = recipe.sample_bytes() > 0
    place = workdir if checkpoints.Checkpoints(workdir).steps() else pathlib.Path(origin["workdir"])
    if not (place / "tokenizer" / DESCRIPTION).is_file():
        if learned:
            raise UserError(
                f"config.data.tokenizer: {place} has no tokenizer, so say which it is, such as tokenizer_file(path=...)"
            )
        return None
    own = checkpoints.restore_tokenizer(place)
    if not learned and recipe.train(()).fingerprint != own.fingerprint:
        raise UserError(f"config.data.tokenizer: {config.data.tokenizer} is not the tokenizer that the parameters of {place} know")
    return own


def begin(plan: Plan, trainer: Trainer, origin: dict[str, Any], say=print) -> tuple[TrainState, dict[str, Any]]:
    """The state at step 0 with the parameters of the origin and a fresh optimizer, and what the manifest says of them.

    Parameters of a head, or of modules that predict further ahead, that the origin has not are initialised; those of its own that
    are not wanted are left out. Raises UserError when other parameters differ, or any shape.
    """
    place = origin["workdir"]
    theirs, meta = checkpoints.Checkpoints(place).restore_params(say)
    state = trainer.init(plan.config.seed)
    theirs = _flat(_laid_out(theirs, plan))
    ours = _flat(state.params)
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name].shape != theirs[name].shape:
            shapes = f"{list(theirs[name].shape)} in {place}, {list(ours[name].shape)} in this model"
            raise UserError(f"--init_from: {name} is {shapes}")
    new, left = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    for name in (*new, *left):
        if not name.startswith(NEW):
            raise UserError(f"--init_from: {name} is not in {place if name in new else 'this model'}; only the head may differ")
    params = traverse_util.unflatten_dict({name: theirs.get(name, own) for name, own in ours.items()}, sep="/")
    say(f"beginning with the parameters of step {meta['step']} of {place}")
    for names, what in ((new, f"not in {place}, initialised"), (left, f"only in {place}, left out")):
        if names:
            say(f"{what}: {', '.join(names)}")
    differences = checkpoints.differences("model", meta["config"]["model"], plan.config.model.to_dict())
    for line in differences:
        say(f"note: {line}")
    record = {"workdir": place, "step": meta["step"], "initialised": new, "left_out": left}
    return trainer.beginning(state, trainer.place(params)), record


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def _laid_out(params: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The parameters with their stacks scanned or unrolled as the plan wants them."""
    params = dict(params)
    for name, layers in plan.model.stacks.items():
        if name in params and stack.is_stacked(params[name]) != plan.execution.scan:
            params[name] = (stack.restack if plan.execution.scan else stack.unstack)(params[name], layers)
    return params
