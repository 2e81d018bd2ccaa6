"""What a model is told before it writes programs, and what is made of what it says."""

import jax
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import answers, conditions
from taxonomy.inference.conditions import Condition, body, model_sampler
from taxonomy.training.plan import make_plan

START = END = BytesTokenizer.document_start
SEPARATOR = BytesTokenizer.vocab_size


@pytest.fixture
def asked(tiny, monkeypatch):
    """The rows, inputs, samplers and keys of a model that is asked for texts, and the texts."""

    def ask(family, objective, prompts, given, **options):
        config = config_lib.load_config(f"{family}:tiny", {"data.tokenizer": "bytes()", "train.objective": objective})
        plan, calls = make_plan(config, 1), []
        decode = answers.generate_tokens

        def spy(model, params, rows, inputs=None, **given):
            calls.append((rows, inputs, given["sampler"], tuple(jax.random.key_data(given["seed"]).tolist())))
            return decode(model, params, rows, inputs=inputs, **given)

        monkeypatch.setattr(answers, "generate_tokens", spy)
        sampler = model_sampler(plan, tiny(family).params, BytesTokenizer(), given, max_new_tokens=8, **options)
        return plan, calls, sampler(prompts)

    return ask


def test_conditions_take_turns(asked):
    given = conditions.conditions(["greedy", "temperature(0.5)"], ["", "# x\n"])
    assert given[1] == Condition("temperature(0.5)") and given[2] == Condition("greedy", "# x\n")
    _, calls, texts = asked("llama", "causal", ["ab", "ab", "ab", "ab", "ab"], given)
    assert [sampler for _, _, sampler, _ in calls] == ["greedy", "temperature(0.5)"] * 2
    assert [rows[0] for rows, *_ in calls] == [[START, *b"ab"]] * 2 + [[START, *b"# x\nab"]] * 2
    assert [len(rows) for rows, *_ in calls] == [2, 1, 1, 1] and len({key for *_, key in calls}) == 4
    assert texts[0] == texts[4] and len(texts) == 5
    assert asked("llama", "causal", ["ab"] * 5, given)[2] == texts


def test_runs_of_other_seeds_share_no_draws(asked, monkeypatch):
    """Nor do batches and conditions of one run."""
    monkeypatch.setattr(answers, "BATCH", 1)
    given = conditions.conditions(["greedy"], ["", "#"])
    keys = [key for seed in (0, 1) for *_, key in asked("llama", "causal", ["ab"] * 4, given, seed=seed)[1]]
    assert len(keys) == len(set(keys)) == 8


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_pairs_are_asked_as_they_were_learned(family, asked, tiny):
    """Greedily, what is said is what `answers.answer` says, up to the end of a function's body."""
    prompts = ["abc", "a text that is longer than what the model can be given " * 3]
    plan, calls, texts = asked(family, "pairs", prompts, [Condition("greedy")])
    (rows, inputs, _, _) = calls[0]
    if family == "t5":
        assert rows == [[START]] * 2 and inputs[0] == [*b"abc", END] and len(inputs[1]) == plan.model.inputs
    else:
        assert inputs is None and rows[0] == [START, *b"abc", SEPARATOR] and rows[1][-1] == SEPARATOR
        assert len(rows[1]) + 8 <= plan.context + 1

    class Prepared:
        tokenizer, separator = BytesTokenizer(), SEPARATOR

        def tokens(self, split):
            return np.array([START, *b"abc", SEPARATOR, *b"x", START], np.uint16)

    (answer,) = answers.answer(plan, tiny(family).params, Prepared(), 1)
    assert answer.said.startswith(texts[0]) or body(answer.said).startswith(texts[0])


@pytest.mark.parametrize(("family", "each"), [("t5", "document"), ("llama", "document"), ("llama", "window")])
def test_a_model_that_knows_good_from_bad_is_told_good(family, each, asked):
    inner = "pairs" if each == "document" else "causal"
    objective = f"control_tokens({inner}, threshold=0.0, each='{each}')"
    plan, calls, _ = asked(family, objective, ["abc"], [Condition("greedy")])
    good = plan.model.vocab - 1
    row = calls[0][1][0] if family == "t5" else calls[0][0][0]
    assert row[: row.index(ord("a"))] == ([good] if family == "t5" else [START, good])


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UserError, match=r"^--sampler: .*temperatur"):
        conditions.conditions(["temperatur(0.5)"])


def test_a_body_ends_where_the_next_thing_begins():
    assert body("    a = 1\n\n    return a\n\nclass B:\n    pass\n") == "    a = 1\n\n    return a\n\n"
    assert body("x = 1\n") == "" and body("") == "" and body("    return 1") == "    return 1"
