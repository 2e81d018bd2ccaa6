"""Checkpoints come back bit for bit, on any mesh, or not at all."""

import functools
import gc
import json
import random
import shutil

import jax
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import spec
from taxonomy.errors import NO_CHECKPOINT, NoCheckpoint, UserError
from taxonomy.training import checkpoints
from taxonomy.training.checkpoints import Checkpoints

from .common import RATE, SMOOTH, assert_trees_equal, start, trainer_of, without_key

# Orbax abandons the reads that go on beside one that fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONFIG = {
    "model.vocab": 32,
    "model.d_model": 16,
    "model.context": 16,
    "model.attention": "gqa(heads=4, kv_heads=2)",
    "model.mlp": "swiglu(d_ff=24)",
    "train.optimizer": SMOOTH,
}


@functools.cache
def config():
    return config_lib.load_config("llama:tiny", CONFIG)


def trainer(mesh="data:1", devices=1, optimizer=SMOOTH, **changes):
    model = spec.model({**config().model.to_dict(), **changes})
    return trainer_of(model, optimizer, 1.0, mesh=mesh, devices=devices)


@functools.cache
def states(packed, random_params):
    """The state after one step and after two; nothing in them is all zeros."""
    one, found = trainer(), []
    batch = packed(32, time=16, rows=4, longest=12, padding=2)._asdict()
    state = start(one, random_params(one.model, batch["tokens"]))
    for _ in range(2):
        state, _ = one.step(state, batch, RATE)
        found.append(jax.tree.map(lambda a: a + 0 if a.dtype == np.int32 else a.copy(), state))
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_TO_END", 0.0)


@pytest.fixture
def saved(packed, random_params):
    return states(packed, random_params)


@pytest.fixture(scope="module")
def original(tmp_path_factory, packed, random_params):
    """A workdir with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("original")
    save(workdir, enumerate(states(packed, random_params), 1))
    return workdir


@pytest.fixture
def workdir(original, tmp_path):
    """A copy of it that may be damaged."""
    shutil.copytree(original / "checkpoints", tmp_path / "checkpoints")
    yield tmp_path
    gc.collect()  # what Orbax abandoned complains now, under the filter above


def meta_of(step, cfg=None):
    return {"config": json.loads(config_lib.to_json(cfg or config())), "tokens": step * 64, "sequences": step * 4}


def save(workdir, numbered, asynchronous=True, **options):
    kept = Checkpoints(workdir, asynchronous=asynchronous, **options)
    for step, state in numbered:
        kept.save(step, state, meta_of(step))
    kept.close()


def restore(workdir, one=None, check=lambda meta: None):
    """What comes back and what is reported."""
    one, lines = one or trainer(), []
    kept = Checkpoints(workdir)
    try:
        return kept.restore(one.abstract, one.shardings, check, lines.append), lines
    finally:
        kept.close()


def in_quarantine(workdir):
    return sorted(p.name for p in (workdir / "checkpoints" / "quarantine").glob("*"))


def test_what_was_saved_comes_back_bit_for_bit(workdir, saved):
    (state, meta), lines = restore(workdir)
    assert_trees_equal(without_key(state), without_key(saved[1]))
    assert state.key.dtype == saved[1].key.dtype
    assert int(state.step) == 2 and lines == [] and in_quarantine(workdir) == []
    assert {key: meta[key] for key in ("step", *meta_of(2))} == {"step": 2, **meta_of(2)}
    # The moments are not trivially equal.
    assert all(np.abs(a).max() > 0 for a in jax.tree.leaves((state.params, state.opt_state[0].mu, state.opt_state[0].nu)))


def test_nothing_saved_is_no_mistake(tmp_path):
    assert restore(tmp_path / "new") == (None, [])
    assert not (tmp_path / "new").exists()


def test_the_last_few_are_kept(tmp_path, saved):
    save(tmp_path, [(step, saved[0]) for step in (1, 5, 9, 12)], keep=3)
    assert Checkpoints(tmp_path).steps() == [5, 9, 12]


def test_a_training_step_does_not_reach_what_is_being_saved(tmp_path, packed, saved):
    """Saving goes on in the background while the step that follows takes the state's memory."""
    one = trainer()
    batch = packed(32, time=16, rows=4, longest=12, padding=2)._asdict()
    state = jax.tree.map(lambda a: a.copy(), saved[0])
    kept = Checkpoints(tmp_path, keep=1)
    kept.save(1, state, meta_of(1))
    for _ in range(3):
        state, _ = one.step(state, batch, RATE)
    kept.close()
    (found, _), lines = restore(tmp_path)
    assert lines == []
    assert_trees_equal(without_key(found), without_key(saved[0]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("data:1", 1), ("data:2,fsdp:2,tensor:2", 8)),
        (("fsdp:2,tensor:4", 8), ("fsdp:4,tensor:2", 8)),
        (("fsdp:8", 8), ("data:1", 1)),
        (("stage:2,data:2", 4), ("fsdp:2", 2)),
    ],
)
def test_a_state_moves_to_another_mesh(tmp_path, saved, before, after):
    first, second = trainer(*before), trainer(*after)
    save(tmp_path, [(2, jax.device_put(saved[1], first.shardings))])
    (state, _), lines = restore(tmp_path, second)
    assert lines == []
    assert_trees_equal(without_key(state), without_key(saved[1]))
    jax.tree.map(lambda a, s: np.testing.assert_equal(a.sharding.is_equivalent_to(s, a.ndim), True), state, second.shardings)
    kernel = state.params["decoder"]["0_repeat"]["0_block"]["mlp"]["up"]
    assert (kernel.addressable_shards[0].data.size < kernel.size) == (after[1] > 1)


def rewrite(folder, change):
    """Changes every file of arrays; which array is in which of them is Orbax's business."""
    for file in data_files(folder):
        file.write_bytes(change(file.read_bytes()))


def data_files(folder):
    return [p for p in folder.glob("state/**/d/*") if p.is_file()]


def flip(content: bytes) -> bytes:
    """One bit in every 64 bytes."""
    flipped = bytearray(content)
    for place in range(len(flipped) // 2 % 64, len(flipped), 64):
        flipped[place] ^= 16
    return bytes(flipped)


def change_meta(folder, change):
    path = folder / "meta" / "metadata"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def file_for_folder(folder):
    shutil.rmtree(folder / "state")
    (folder / "state").write_text("not a folder")


DAMAGE = {
    "truncated": lambda folder: rewrite(folder, lambda content: content[: len(content) // 2]),
    "zeroed": lambda folder: rewrite(folder, lambda content: bytes(len(content))),
    "flipped": lambda folder: rewrite(folder, flip),
    "deleted": lambda folder: [file.unlink() for file in data_files(folder)],
    "no manifest": lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
    "no process manifest": lambda folder: shutil.rmtree(folder / "state" / "ocdbt.process_0"),
    "cut array metadata": lambda folder: (folder / "state" / "_METADATA").write_text('{"tree_metadata": {'),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "state is a file": file_for_folder,
    "empty step": empty,
    "no meta": lambda folder: shutil.rmtree(folder / "meta"),
    "garbage meta": lambda folder: (folder / "meta" / "metadata").write_text('{"config": {"mod'),
    "meta is a list": lambda folder: (folder / "meta" / "metadata").write_text("[1, 2]"),
    "meta is binary": lambda folder: (folder / "meta" / "metadata").write_bytes(b"\xff\xfe\x00"),
    "another step": lambda folder: change_meta(folder, lambda meta: meta.update(step=7)),
    "another config": lambda folder: change_meta(folder, lambda meta: meta["config"]["model"].update(d_model=24)),
    "no checksums": lambda folder: change_meta(folder, lambda meta: meta.update(checksums={})),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_step_is_put_aside_and_the_one_before_is_used(workdir, saved, damage):
    damage(workdir / "checkpoints" / "2")
    (state, meta), lines = restore(workdir, check=lambda meta: checkpoints.refuse_changed(meta["config"], config()))
    assert_trees_equal(without_key(state), without_key(saved[0]))
    assert meta["step"] == 1
    (line,) = lines
    assert line.startswith("checkpoint 2 is damaged (") and line.endswith("; moved to checkpoints/quarantine") and "\n" not in line
    assert in_quarantine(workdir) == ["2"] and Checkpoints(workdir).steps() == [1]
    # Its number is free again, and a second damaged one does not replace the first.
    save(workdir, [(2, saved[1])])
    assert_trees_equal(without_key(restore(workdir)[0][0]), without_key(saved[1]))
    damage(workdir / "checkpoints" / "2")
    restore(workdir)
    assert in_quarantine(workdir) == ["2", "2.1"]


def test_no_flipped_bit_comes_back_as_something_else(workdir, saved, tmp_path):
    """Whatever file of a step it is in, and wherever: the step is unharmed, or the one before it is used."""
    generator = random.Random(0)
    folder = workdir / "checkpoints" / "2"
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 5
    outcomes = []
    for number in range(30):
        case = tmp_path / f"case{number}"
        shutil.copytree(workdir / "checkpoints", case / "checkpoints")
        file = case / "checkpoints" / "2" / files[number % len(files)]
        content = bytearray(file.read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(content)
        (state, meta), lines = restore(case)
        assert len(lines) == 2 - meta["step"]
        assert_trees_equal(without_key(state), without_key(saved[meta["step"] - 1]))
        assert {key: meta[key] for key in meta_of(1)} == meta_of(meta["step"])
        outcomes.append(meta["step"])
    assert outcomes.count(1) > 5, outcomes


def test_a_run_does_not_start_anew_when_all_is_damaged(workdir):
    """Neither at once nor when the same command is tried again."""
    for step in ("1", "2"):
        DAMAGE["truncated"](workdir / "checkpoints" / step)
    lines = []
    for said in (r"none of the checkpoints \[1, 2\] can be read", "only damaged checkpoints, in quarantine/"):
        one, kept = trainer(), Checkpoints(workdir)
        with pytest.raises(NoCheckpoint, match=said) as e:
            kept.restore(one.abstract, one.shardings, lambda meta: None, lines.append)
        kept.close()
        assert e.value.exit_code == NO_CHECKPOINT == 4 and "\n" not in str(e.value)
    assert [line.split(" (")[0] for line in lines] == ["checkpoint 2 is damaged", "checkpoint 1 is damaged"]
    assert in_quarantine(workdir) == ["1", "2"]


@pytest.mark.parametrize("name", ["notes.txt", "999x", "7.orbax-checkpoint-tmp", "quarantine"])
def test_other_things_in_the_folder_are_left_alone(workdir, saved, name):
    path = workdir / "checkpoints" / name
    if "." in name and not name.endswith("tmp"):
        path.write_text("mine")
    else:
        path.mkdir()
    assert Checkpoints(workdir).steps() == [1, 2]
    (state, _), lines = restore(workdir)
    assert lines == [] and int(state.step) == 2
    save(workdir, [(3, saved[1])])
    assert Checkpoints(workdir).steps() == [2, 3]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"model.d_model": 24}, ["config.model.d_model was 16, is 24"]),
        ({"model.position": "alibi"}, ["config.model.position was 'rope(theta=10000)', is 'alibi'"]),
        ({"train.optimizer": "lion"}, [f"config.train.optimizer was {SMOOTH!r}, is 'lion'"]),
        ({"train.batch_tokens": 2048, "seed": 3}, ["config.seed was 0, is 3", "config.train.batch_tokens was 1024, is 2048"]),
        ({"train.scan": False}, ["config.train.scan was True, is False"]),
        ({"data.tokenizer": "bytes()"}, ["config.data.tokenizer was 'sentencepiece(vocab=vocab)', is 'bytes()'"]),
        ({"train.context": 8}, ["config.train.context was None, is 8"]),
    ],
)
def test_another_config_is_refused_and_nothing_is_put_aside(workdir, overrides, named):
    """A mistake of ours is no damage."""
    other = config_lib.load_config("llama:tiny", CONFIG | overrides)
    with pytest.raises(UserError) as e:
        restore(workdir, check=lambda meta: checkpoints.refuse_changed(meta["config"], other))
    message = str(e.value)
    assert all(key in message for key in named) and "Use a new --workdir" in message and "\n" not in message
    assert type(e.value) is UserError and e.value.exit_code == 2
    assert in_quarantine(workdir) == [] and Checkpoints(workdir).steps() == [1, 2]


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.steps": 500, "train.log_every": 1, "name": "longer"},
        {"mesh": "fsdp:-1", "train.microbatch_tokens": 64, "train.dtype": "bfloat16", "train.remat": "full"},
        {"checkpoint.keep": 5, "evaluation.every": "1%", "train.schedule": "constant(peak=1e-3)", "train.clip": 0.5},
    ],
)
def test_what_does_not_change_the_meaning_may_change(workdir, overrides):
    other = config_lib.load_config("llama:tiny", CONFIG | overrides)
    (_, meta), lines = restore(workdir, check=lambda meta: checkpoints.refuse_changed(meta["config"], other))
    assert meta["step"] == 2 and lines == []


def test_a_config_from_before_a_key_was_there_is_another_config(workdir):
    """An older checkpoint is no damaged one."""
    saved_config = meta_of(1)["config"]
    del saved_config["train"]["scan"]
    with pytest.raises(UserError, match=r"config\.train\.scan was None, is True"):
        checkpoints.refuse_changed(saved_config, config())


KEY = "['decoder']['0_repeat']['0_block']['attention']['key']"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (dict(d_model=24), f".params{KEY} is float32[2, 16, 2, 4], not float32[2, 24, 2, 6]"),
        (dict(head="tied"), ".params['head']['kernel'] is float32[32, 16], not absent"),
        (dict(optimizer="lion"), f".opt_state[0].nu{KEY} is float32[2, 16, 2, 4], not absent"),
    ],
)
def test_other_arrays_are_refused_and_nothing_is_put_aside(workdir, other, named):
    """Also when the config did not tell, as after a change of the code or of a library."""
    with pytest.raises(UserError) as e:
        restore(workdir, trainer(**other))
    message = str(e.value)
    assert message.startswith("checkpoint 2 is not one of this model and optimizer: ") and "\n" not in message
    assert named in message
    assert in_quarantine(workdir) == [] and Checkpoints(workdir).steps() == [1, 2]


def test_a_lack_of_memory_is_no_damage(workdir, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(checkpoints, "_difference", fail)
    with pytest.raises(jax.errors.JaxRuntimeError):
        restore(workdir)
    assert in_quarantine(workdir) == []


def test_parameters_alone(workdir, saved):
    cfg, params = checkpoints.restore_params(workdir)
    assert config_lib.to_json(cfg) == config_lib.to_json(config()) and cfg.is_locked
    assert_trees_equal(params, jax.tree.map(np.asarray, saved[1].params))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("damage", ["zeroed", "no manifest", "garbage meta", "empty step"])
def test_reading_parameters_moves_nothing(workdir, saved, damage, capsys):
    """A workdir that a run is writing to can be read; the run decides what is put aside."""
    DAMAGE[damage](workdir / "checkpoints" / "2")
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    _, params = checkpoints.restore_params(workdir)
    assert_trees_equal(params, jax.tree.map(np.asarray, saved[0].params))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("checkpoint 2 is damaged (") and line.endswith("; left out")
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before


def test_no_parameters_to_read(tmp_path, workdir):
    with pytest.raises(NoCheckpoint, match="no directory"):
        checkpoints.restore_params(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(NoCheckpoint, match="no checkpoint there"):
        checkpoints.restore_params(tmp_path / "bare")
    assert list((tmp_path / "bare").iterdir()) == []
    for step in ("1", "2"):
        DAMAGE["zeroed"](workdir / "checkpoints" / step)
    with pytest.raises(NoCheckpoint, match=r"none of the checkpoints \[1, 2\] can be read"):
        checkpoints.restore_params(workdir)


def test_parameters_from_elsewhere_make_a_workdir(tmp_path, saved):
    checkpoints.save_params(tmp_path / "made", config(), saved[1].params)
    cfg, params = checkpoints.restore_params(tmp_path / "made")
    assert_trees_equal(params, jax.tree.map(np.asarray, saved[1].params))
    assert (tmp_path / "made" / "config.json").read_text() == config_lib.to_json(cfg) == config_lib.to_json(config())
    # They are no state of a run: that is said, and they stay.
    with pytest.raises(UserError, match="checkpoint 0 is not one of this model and optimizer"):
        restore(tmp_path / "made")
    assert Checkpoints(tmp_path / "made").steps() == [0]


def test_a_manifest_says_what_a_run_depended_on():
    found = checkpoints.manifest(["taxonomy.train", "--workdir=w"])
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == ["taxonomy.train", "--workdir=w"] and found["packages"]["jax"] == jax.__version__
    assert len(found["devices"]) == 8 and found["processes"] == 1
