"""A run from another run's parameters: which are taken, which are new, what is refused, and that a stop changes nothing."""

import json
import shutil

import jax
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.training import checkpoints, loop, origin
from taxonomy.training.plan import make_plan

from .commands import RUN
from .common import assert_trees_equal

SMALL = {
    "model.d_model": 16,
    "model.attention": "gqa(heads=4, kv_heads=2)",
    "model.mlp": "swiglu(d_ff=24)",
    "model.decoder": "2*block",
    "mesh": "data:1",
}
CLASSES = {"model.head": "classifier(classes=3)"}


@pytest.fixture(autouse=True)
def one_device(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    make_mesh = loop.sharding.make_mesh
    monkeypatch.setattr(loop.sharding, "make_mesh", lambda *_: make_mesh("", jax.devices()[:1]))
    monkeypatch.setenv("TAXONOMY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    """A workdir that holds random parameters of a small decoder, and their config."""
    config = config_lib.load_config("llama:tiny", SMALL)
    params = loop.make_trainer(make_plan(config, 1)).init(7).params
    checkpoints.save_params(tmp_path / "source", config, params)
    BytesTokenizer().save(tmp_path / "source" / "tokenizer")
    return tmp_path / "source"


def begin(source, name="llama:tiny", **overrides):
    plan = make_plan(config_lib.load_config(name, SMALL | {k.replace("__", "."): v for k, v in overrides.items()}), 1)
    trainer, lines = loop.make_trainer(plan), []
    state, record = origin.begin(plan, trainer, {"workdir": str(source)}, lines.append)
    return trainer, state, record, lines


def test_the_parameters_are_those_of_the_other_run(source):
    """Bit for bit, whatever the seed; the optimizer and the step are new."""
    trainer, state, record, lines = begin(source, seed=3)
    assert_trees_equal(jax.device_get(state.params), checkpoints.restore_params(source)[1])
    assert_trees_equal(state.opt_state, trainer.init(3).opt_state)
    assert int(state.step) == 0
    assert record == {"workdir": str(source), "step": 0, "initialised": [], "left_out": []}
    assert lines == [f"beginning with the parameters of step 0 of {source}"]
    one, other = (trainer.model.apply({"params": s.params}, np.arange(8)[None]) for s in (state, trainer.init(3)))
    assert not np.allclose(one, other)


def test_stacks_are_laid_out_anew(source):
    _, unrolled, _, _ = begin(source, train__scan=False)
    query = checkpoints.restore_params(source)[1]["decoder"]["0_repeat"]["0_block"]["attention"]["query"]
    for turn in range(2):
        found = unrolled.params["decoder"][f"0_repeat_{turn}"]["0_block"]["attention"]["query"]
        np.testing.assert_array_equal(found, query[turn])


def test_a_new_head_is_named_and_so_is_what_it_replaces(tmp_path):
    config = config_lib.load_config("bert:tiny")
    old = loop.make_trainer(make_plan(config, 1)).init(7).params
    checkpoints.save_params(tmp_path / "bert", config, old)
    plan = make_plan(config_lib.load_config("bert:tiny", CLASSES), 1)
    trainer, lines = loop.make_trainer(plan), []
    state, record = origin.begin(plan, trainer, {"workdir": str(tmp_path / "bert")}, lines.append)
    new = ["head/bias_C", "head/kernel", "head/pooler", "head/pooler_bias"]
    assert record["initialised"] == new and set(record["left_out"]) >= {"head/bias_V", "head/transform"}
    assert f"initialised: {', '.join(new)}" in lines[1] and "left out: head/bias_V" in lines[2]
    assert lines[3].startswith("note: config.model.head was 'mlm'")
    assert_trees_equal(state.params["encoder"], old["encoder"])
    assert_trees_equal(state.params["head"], trainer.init(plan.config.seed).params["head"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"model__mlp": "swiglu(d_ff=32)"},
            r"--init_from: decoder/0_repeat/0_block/mlp/\S+ is \[.*24.*\] in \S+source, \[.*32.*\] in",
        ),
        (
            {"model__attention": "gqa(heads=4, kv_heads=2, qk_norm=norm)"},
            r"--init_from: decoder/.*norm\S* is not in \S+source; only the",
        ),
        ({"model__final_norm": None}, "--init_from: final_norm/.* is not in this model; only the head may differ"),
    ],
)
def test_other_parameters_are_refused(source, overrides, said):
    with pytest.raises(UserError, match=said):
        begin(source, **overrides)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "text.txt").write_text("the model reads a line of text and says what comes next\n" * 200)
    data = {"data.source": f"text(glob='{tmp_path}/text.txt')", "data.tokenizer": "sentencepiece(vocab=300)", "model.context": 32}
    return lambda **more: config_lib.load_config(
        "llama:tiny", RUN | SMALL | data | {k.replace("__", "."): v for k, v in more.items()}
    )


def test_a_stopped_run_ends_where_an_undisturbed_one_does(source, config, tmp_path):
    """Bitwise, with dropout, and although the other run is gone by then; the tokenizer is that of the other run."""
    whole = loop.train(config(train__steps=8), tmp_path / "whole", str(source))
    half = loop.train(config(train__steps=4), tmp_path / "half", str(source))
    first = json.loads((tmp_path / "half" / "manifest.json").read_text())["init_from"]
    shutil.rmtree(source)
    resumed = loop.train(config(train__steps=8), tmp_path / "half", str(source))
    assert (half.step, resumed.step) == (4, 8)
    assert_trees_equal(jax.device_get(resumed.state.params), jax.device_get(whole.state.params))
    assert resumed.prepared.tokenizer.fingerprint == whole.prepared.tokenizer.fingerprint == BytesTokenizer.fingerprint
    assert json.loads((tmp_path / "half" / "manifest.json").read_text())["init_from"] == first
    assert first["workdir"] == str(source)
    with pytest.raises(UserError, match=f"holds a run that began from {source}, not from .*whole. Use a new --workdir"):
        origin.find(tmp_path / "half", str(tmp_path / "whole"))
    assert origin.find(tmp_path / "half", None) == first


def test_what_a_run_cannot_begin_from(source, config, tmp_path):
    with pytest.raises(UserError, match="--init_from: no run with a checkpoint in nowhere"):
        loop.train(config(), tmp_path / "never", "nowhere")
    with pytest.raises(UserError, match="holds a run that began from no other"):
        origin.find(source, str(tmp_path))
    shutil.move(source / "tokenizer", tmp_path / "aside")
    with pytest.raises(UserError, match="source has no tokenizer, so say which it is"):
        loop.train(config(), tmp_path / "never", str(source))
    from taxonomy.data.tokenizers import SentencePiece

    SentencePiece(280).train(["a few words of text " * 50, "and others " * 50]).save(source / "tokenizer")
    with pytest.raises(UserError, match=r"config.data.tokenizer: bytes\(\) is not the tokenizer"):
        loop.train(config(data__tokenizer="bytes()"), tmp_path / "never", str(source))
    assert not (tmp_path / "never").exists()
