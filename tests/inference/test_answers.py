"""Answers to held-out pairs: what the model is given, how they are chosen, and what is made of them."""

import json

import jax
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import sharding
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import answers
from taxonomy.inference.decode import generate
from taxonomy.training import loop, report
from taxonomy.training.plan import make_plan

BYTES = {"data.tokenizer": "bytes()", "train.objective": "pairs"}


class Prepared:
    """Held-out pairs of letters, beside a document that is none."""

    tokenizer = BytesTokenizer()
    separator = 257
    pairs = (("abc", "xyz"), ("d", ""), ("a text that is longer than what the model can be given " * 3, "z"), ("e", "w"))

    def tokens(self, split):
        start, found = self.tokenizer.document_start, []
        for given, wanted in self.pairs:
            found += [[start], given.encode(), [self.separator], wanted.encode(), [start], b"alone"]
        return np.concatenate([np.array(list(part), np.uint16) for part in found])


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_an_answer_is_what_the_model_says_to_the_input(family, tiny, monkeypatch):
    one = tiny(family)
    plan = make_plan(config_lib.load_config(f"{family}:tiny", BYTES), 1)
    given = []
    decode = answers.generate_tokens

    def spy(model, params, prompts, inputs=None, **options):
        given.extend((tuple(p), tuple(i) if i else None) for p, i in zip(prompts, inputs or [None] * len(prompts), strict=True))
        return decode(model, params, prompts, inputs=inputs, **options)

    monkeypatch.setattr(answers, "generate_tokens", spy)
    found = answers.answer(plan, one.params, Prepared(), 10)
    assert [(a.input, a.target) for a in found] == list(Prepared.pairs)
    context = plan.context
    if family == "t5":
        prompts = [generate(plan.config, one.params, [a.input], tokenizer=BytesTokenizer(), max_new_tokens=context) for a in found]
        assert [[a.said] for a in found[:2]] == prompts[:2]
        assert {(p, len(i)) for p, i in given} == {((256,), 4), ((256,), 2), ((256,), plan.model.inputs)}
        assert all(i[-1] == 256 for _, i in given)
    else:
        assert {p[0] for p, _ in given} == {256} and {p[-1] for p, _ in given} == {257}
        assert max(len(p) for p, _ in given) == context // 2
    some = answers.answer(plan, one.params, Prepared(), 2)
    assert [a.input for a in some] == ["abc", "e"] and some[0].said == found[0].said


def test_documents_are_no_pairs(tiny):
    plan = make_plan(config_lib.load_config("t5:tiny", BYTES), 1)
    prepared = Prepared()
    prepared.pairs, prepared.separator = (), None
    prepared.tokens = lambda split: np.array([256, 97, 98])
    with pytest.raises(UserError, match=r"^data\.source: the validation split of stdlib\(\) has no pairs to answer$"):
        answers.answer(plan, tiny("t5").params, prepared, 3)


def test_pairs_from_lines_to_scores(tmp_path, monkeypatch):
    """A run on pairs reports its scores, in numbers and examples."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: make_mesh("", jax.devices()[:1]))
    monkeypatch.setenv("TAXONOMY_CACHE", str(tmp_path / "cache"))
    letters = "abcdefgh"
    lines = [{"q": f"{one}{two}", "a": two} for one in letters for two in letters]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    overrides = BYTES | {
        "data.source": f"jsonl_pairs(glob='{tmp_path}/*.jsonl', input='last: {{q}}', target='{{a}}', validation=0.2)",
        "evaluation.metrics": ("accuracy", "f1", "rouge"),
        "evaluation.every": "100%",
        "train.steps": 40,
        "train.batch_tokens": 256,
        "train.optimizer": "adamw(b1=0.9, b2=0.95, weight_decay=0.0)",
        "train.schedule": "linear(peak=4e-3, warmup='10 steps')",
        "checkpoint.every": "100%",
        "checkpoint.asynchronous": False,
    }
    run = loop.train(config_lib.load_config("t5:tiny", overrides), tmp_path / "run")
    summary = report.finish(run)
    assert list(summary["scores"]) == ["accuracy", "f1", "rouge"]
    found = answers.answer(run.plan, run.state.params, run.prepared, 1000)
    assert len(found) == run.prepared.documents("validation") > 5
    assert summary["scores"]["accuracy"] == pytest.approx(np.mean([a.said.strip() == a.target for a in found]))
    shown = json.loads((tmp_path / "run" / "report.json").read_text())["samples"]
    assert 3 <= len(shown) <= 4 and all(given.startswith("last: ") and given[-1] == wanted for given, _, wanted in shown)
