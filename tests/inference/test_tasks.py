"""Tasks made here: what they ask, what a model reaches in them, and what is said of tasks that there are not."""

import itertools
import logging
import math

import pytest

from taxonomy import registry
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import local_tasks, tasks


def documents(sentence):
    return registry.create("task", sentence, "--tasks").documents()


def test_names_are_asked_where_they_stand():
    asked = documents("next_name(count=60, choices=3, characters=300)")["test"]
    assert len(asked) == 60 and asked == documents("next_name(count=60, choices=3, characters=300)")["test"]
    assert asked != documents("next_name(count=60, choices=3, characters=300, seed=1)")["test"]
    modules = [text for _, text in local_tasks.StandardLibrarySource().files("validation")]
    for question in asked:
        context, names = question["context"], question["choices"]
        assert len(set(names)) == 3 and len(context) <= 300
        assert any(context + names[question["answer"]] in text for text in modules)
        assert all(name in context for name in names)
    assert {question["answer"] for question in asked} == {0, 1, 2}


def test_names_in_a_line_longer_than_a_piece_are_not_asked():
    text = "one = two = 1\none, two = two, one\n" + "one + two + " * 9 + "one"
    asked = list(registry.create("task", "next_name(choices=2, characters=20)", "--tasks")._of_module(text))
    assert asked and all(len(question["context"]) <= 20 for question in asked)


def test_sums_are_right():
    made = documents("sums(count=50, digits=3, shots=2)")
    for question in itertools.chain(*made.values()):
        one, other = (int(word) for word in question["question"].replace("?", " ").split() if word.isdigit())
        assert str(one + other) == question["answer"] and max(one, other) < 1000
    assert {split: len(questions) for split, questions in made.items()} == {"train": 2, "test": 50}


@pytest.fixture(scope="module")
def ask(tiny):
    """Asks tasks of an untrained model of bytes."""
    from taxonomy import config as config_lib

    one = tiny("llama")
    config = config_lib.load_config("llama:tiny")
    assert config.model.vocab >= BytesTokenizer.vocab_size
    return lambda *sentences, **how: tasks.run(config, one.params, BytesTokenizer(), sentences, **how)


def test_all_kinds_end_to_end(ask, tmp_path):
    """Of every kind of request that there is."""
    (tmp_path / "a.txt").write_text("abc\n\n" * 40)
    heard = []
    text = f"held_out_text(source=text(glob='{tmp_path}/*.txt', validation=0.5), count=2)"
    told = lambda what, done, of: heard.append((what, done, of))  # noqa: E731
    found = ask("next_name(count=6)", "sums(count=3, shots=1)", text, limit=4, told=told)
    assert list(found) == ["next_name(count=6)", "sums(count=3, shots=1)", text]
    names, sums, held_out = found.values()
    assert (names["documents"], names["shots"], sums["documents"], sums["shots"]) == (4, 0, 3, 1)
    assert (0 <= names["acc"] <= 1 and names["acc_stderr"] > 0) or names["acc"] in (0, 1)
    assert sums["exact_match (first_number)"] in (0, 1 / 3, 2 / 3, 1)
    assert held_out["bits_per_byte"] == pytest.approx(math.log2(held_out["byte_perplexity"]))
    assert 6 < held_out["bits_per_byte"] < 16  # nothing was learned
    assert {what for what, _, _ in heard} == {"continuations", "texts", "windows"}
    assert ("continuations", 16, 16) in heard and ("texts", 3, 3) in heard


def test_examples_and_tasks_of_the_users_own(ask, tmp_path):
    import datasets

    datasets.Dataset.from_list([{"q": f"{n}?", "a": "yes"} for n in range(5)]).to_json(tmp_path / "data.jsonl")
    (tmp_path / "own.yaml").write_text(
        f"""task: own
dataset_path: json
dataset_kwargs: {{data_files: {tmp_path}/data.jsonl, cache_dir: {tmp_path}/cache}}
test_split: train
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{a}}}}"
"""
    )
    (found,) = ask(str(tmp_path / "own.yaml"), fewshot=2).values()
    assert (found["documents"], found["shots"]) == (5, 2) and found["acc"] in (0, 1)


def test_tasks_that_are_not_there(ask, monkeypatch):
    """One line each, whatever is wrong."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", Few)
    for sentence, words in (
        ("hellaswagg", r"unknown task 'hellaswagg'; did you mean 'hellaswag'\? \(made here: held_out_text, next_name, sums; all"),
        ("next_nam", "unknown task 'next_nam'; did you mean 'next_name'"),
        ("next_name(cout=3)", "next_name has no argument 'cout'; did you mean 'count'"),
        ("sums(digits=0)", "digits=0 must be at least 1"),
        ("hellaswag", r"hellaswag: cannot be read \(ConnectionError: no network\)"),
    ):
        with pytest.raises(UserError, match="--tasks: .*" + words) as caught:
            ask(sentence)
        assert len(str(caught.value).splitlines()) <= 2


class Few:
    """A manager that knows one task and has no network."""

    all_tasks = task_index = ("hellaswag",)

    def __init__(self, include_defaults):
        pass

    def load(self, names):
        raise ConnectionError("no network\nat all")


def test_without_lm_eval(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--tasks: needs the library lm_eval.*pip install -e '.\[eval\]'"):
        tasks.check(["sums"])


def test_lm_eval_is_quiet(ask, capfd):
    ask("sums(count=1, shots=0)")
    assert logging.getLogger("lm_eval").level == logging.ERROR
    assert capfd.readouterr().out == ""
