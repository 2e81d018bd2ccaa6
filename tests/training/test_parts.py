"""Figures of the datasets and the objectives that rows come from."""

import json

import numpy as np
import pytest

from taxonomy.config import load_config
from taxonomy.errors import UserError
from taxonomy.training import loop
from taxonomy.training.parts import Parts, apart
from taxonomy.training.plan import make_plan


def test_each_dataset_and_each_objective_has_its_own_figures():
    """Sums of the pairs (a, x), (a, y), (b, x), (b, y); objective y has no tokens of b."""
    parts = Parts(("a", "b"), ("x", "y"))
    found = parts.figures(np.array([6.0, 2.0, 4.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0, 0.0]))
    assert parts.count == 4
    assert apart(found) == {
        "a": {"loss": 2.0, "accuracy": 0.5},
        "b": {"loss": 2.0, "accuracy": 0.0},
        "x": {"loss": 2.5, "accuracy": 0.25},
        "y": {"loss": 1.0, "accuracy": 0.5},
    }


def test_what_has_no_tokens_or_no_namesakes_is_left_out():
    assert Parts((), ("x", "y")).figures(*np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])) == {"loss/x": 1.5, "accuracy/x": 0.5}
    assert Parts(("only",)).figures(*np.ones((3, 1))) == {} == Parts().figures(*np.ones((3, 1)))
    with pytest.raises(ValueError):
        Parts(("a", "b")).figures(*np.ones((3, 3)))


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Sources of short pairs, each of letters of its own, and one of plain text."""
    monkeypatch.setenv("TAXONOMY_CACHE", str(tmp_path / "cache"))
    for name in ("abc", "xyz"):
        pairs = [{"input": name[i % 3] * (1 + i % 7), "target": name[i % 2] * (1 + i % 4)} for i in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "plain.txt").write_text("\n\n".join("mno" * (3 + i % 5) for i in range(300)))
    pairs = [f"jsonl_pairs(glob='{tmp_path}/{name}.jsonl', validation=0.2)" for name in ("abc", "xyz")]
    return *pairs, f"text(glob='{tmp_path}/plain.txt', validation=0.2)"


def planned(*sources, **changes):
    changes = {"data.source": f"mixture({', '.join(sources)})", "data.tokenizer": "bytes", "train.objective": "pairs"} | changes
    plan = make_plan(load_config("t5:tiny", changes), 8)
    return plan, loop.prepare_data(plan.config, say=lambda line: None)


def test_pairs_that_share_a_row_are_of_one_dataset(tasks):
    plan, prepared = planned(*tasks[:2])
    batch = loop.make_examples(plan, prepared).batch(0, 32)
    assert set(batch["part"]) == {0, 1} and batch["segments"].max() > 2
    for row, part in enumerate(batch["part"]):
        own = {prepared.tokenizer.document_end, *b"abcxyz"[3 * part : 3 * part + 3]}
        for name, segments in (("inputs", "input_segments"), ("targets", "segments")):
            assert set(batch[name][row][batch[segments][row] > 0].tolist()) <= own


def test_pairs_and_plain_text_share_a_separator_but_not_the_objective_of_pairs(tasks):
    with pytest.raises(UserError, match=r"pairs takes pairs of texts; config.data.source has none \(in text\)"):
        loop.make_examples(*planned(tasks[0], tasks[2]))
    plan, prepared = planned(tasks[0], tasks[2], **{"train.objective": "random_pivot"})
    separator = prepared.separator
    assert [part.separator for part in prepared.parts] == [separator, None] and separator == prepared.tokenizer.vocab_size
    batch = loop.make_examples(plan, prepared).batch(0, 64)
    held = (batch["inputs"] == separator).any(axis=1) | (batch["targets"] == separator).any(axis=1)
    assert held[batch["part"] == 0].any() and not held[batch["part"] == 1].any()
