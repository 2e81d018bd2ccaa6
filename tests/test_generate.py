"""The generate command, from a workdir to text."""

import re
import subprocess
import sys

import pytest

from taxonomy import registry
from taxonomy.data import tokenizers
from taxonomy.errors import UserError
from taxonomy.inference import decode
from taxonomy.training import checkpoints


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
    one = tiny("gpt2")
    folder = tmp_path_factory.mktemp("run")
    checkpoints.save_params(folder, one.config, one.params)
    tokenizers.BytesTokenizer().save(folder / "tokenizer")
    return folder


def run(*words):
    command = [sys.executable, "-m", "taxonomy.generate", *words]
    return subprocess.run(command, capture_output=True, timeout=120)


def test_prompts_are_continued(tiny, workdir, tmp_path):
    one, tokenizer = tiny("gpt2"), tokenizers.BytesTokenizer()
    (tmp_path / "prompt.txt").write_text("class ")
    sampler = "top_p(0.9, temperature=0.8)"
    done = run(
        f"--workdir={workdir}",
        "--prompt=def read_",
        f"--prompt_file={tmp_path / 'prompt.txt'}",
        "--max_new_tokens=12",
        f"--sampler={sampler}",
        "--seed=7",
    )
    assert done.returncode == 0, done.stderr
    prompts = ["def read_", "class "]
    texts = decode.generate(one.config, one.params, prompts, tokenizer=tokenizer, max_new_tokens=12, sampler=sampler, seed=7)
    expected = "".join(f"--- {i} of 2\n{prompt}{text}\n" for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1))
    assert done.stdout.decode() == expected


def test_a_stream_prints_what_is_printed_at_once(tiny, workdir):
    """Several texts of a prompt, and one that ends before a string, as it comes."""
    words = [f"--workdir={workdir}", "--prompt=def ", "--max_new_tokens=12", "--sampler=chain(presence(1), temperature(0.9))"]
    how = {"tokenizer": tokenizers.BytesTokenizer(), "max_new_tokens": 12, "sampler": "chain(presence(1), temperature(0.9))"}
    one = tiny("gpt2")
    texts = decode.generate(one.config, one.params, ["def "], **how, n=2)
    several = run(*words, "--n=2").stdout.decode()
    assert several == "".join(f"--- {i} of 2\ndef {text}\n" for i, text in enumerate(texts, 1))
    text = decode.generate(one.config, one.params, ["def "], **how)[0]
    done = run(*words, "--stream", f"--stop={text[3:5]}", "--stop=never said")
    assert done.stdout.decode() == f"def {text.partition(text[3:5])[0]}\n", done.stderr


def test_texts_that_match(workdir):
    done = run(
        f"--workdir={workdir}",
        "--max_new_tokens=12",
        "--prompt=def ",
        "--regex=(ab|c){3}-[0-9]",
        "--n=3",
        "--sampler=temperature(5)",
    )
    assert done.returncode == 0, done.stderr
    assert all(re.fullmatch("def (ab|c){3}-[0-9]", line) for line in done.stdout.decode().splitlines()[1::2])


def test_beams(tiny, workdir):
    one, how = tiny("gpt2"), {"tokenizer": tokenizers.BytesTokenizer(), "max_new_tokens": 8}
    text = decode.generate(one.config, one.params, ["def "], **how, beams=3, length_penalty="gnmt(0.6)", cache="int8")[0]
    words = ["--prompt=def ", "--max_new_tokens=8", "--beams=3", "--length_penalty=gnmt(0.6)", "--cache=int8"]
    done = run(f"--workdir={workdir}", *words)
    assert done.stdout.decode() == f"def {text}\n", done.stderr


def test_a_draft_changes_nothing_and_is_reported(tiny, workdir):
    one, how = tiny("gpt2"), {"tokenizer": tokenizers.BytesTokenizer(), "max_new_tokens": 12}
    text = decode.generate(one.config, one.params, ["def "], **how)[0]
    done = run(f"--workdir={workdir}", "--prompt=def ", "--max_new_tokens=12", f"--speculate=draft('{workdir}', tokens=3)")
    assert done.stdout.decode() == f"def {text}\n", done.stderr
    # Of the eleven tokens that follow the first, eight in checks of four and three in a check of two proposed ones.
    assert done.stderr.decode() == "--speculate: 8 of 8 proposed tokens kept, 3.67 tokens a step of the model\n"


def test_a_draft_with_another_tokenizer_is_refused(tmp_path):
    class Turned(tokenizers.BytesTokenizer):
        def pieces(self):
            return super().pieces()[::-1]

    draft = registry.create("draft", f"draft('{tmp_path}')", "--speculate")
    draft.check_tokenizer(Turned())  # nothing is known of the draft's
    tokenizers.BytesTokenizer().save(tmp_path / "tokenizer")
    draft.check_tokenizer(tokenizers.BytesTokenizer())
    with pytest.raises(UserError, match=r"speculate: .* has another tokenizer than the model"):
        draft.check_tokenizer(Turned())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--prompt=x"], "--workdir: required"),
        (["--workdir=x", "--sampler=top_p(2)"], "--sampler: top_p: p=2.0 must be above 0 and at most 1"),
        (["--workdir=x", "--prompt_file=/nowhere"], "--prompt_file: cannot read /nowhere"),
        (["--workdir=x", "--max_new_tokens=0"], "--max_new_tokens: must be at least 1"),
        (["--workdir=x", "--cache=int"], "--cache: must be one of exact, int8, got 'int'; did you mean 'int8'"),
        (["--workdir=x", "--beams=0"], "--beams: must be at least 1, got 0"),
        (["--workdir=x", "--beams=2", "--sampler=greedy"], "--sampler: not with --beams"),
        (["--workdir=x", "--beams=2", "--seed=0"], "--seed: not with --beams"),
        (["--workdir=x", "--speculate=lookup"], "--speculate: unknown draft 'lookup'"),
        (["--workdir=x", "--beams=2", "--speculate=ahead"], "--speculate: not with --beams"),
        (["--workdir=x", "--length_penalty=gnmt(0.6)"], "--length_penalty: only with --beams"),
        (["--workdir=x", "--beams=2", "--length_penalty=power"], "--length_penalty: power needs the argument 'exponent'"),
        (["--workdir=x", "--beams=2", "--n=3"], "--n: at most --beams=2, got 3"),
        (["--workdir=x", "--stream", "--n=2"], "--stream: writes one text, not 2"),
        (["--workdir=x", "--regex=a("], "regex: 'a(': unclosed group"),
        (["--workdir=x", "--json_schema=/nowhere"], "--json_schema: cannot read /nowhere"),
        (["--workdir=x", "--regex=a", "--beams=2"], "--regex: not with --beams"),
        (["--workdir=x", "--tool=abacus"], "tool: unknown tool 'abacus' (allowed: calculator, python)"),
        (["--workdir=x", "--prompt=a", "--prompt=b", "--suffix=c"], "--suffix: one for each of 2 prompts or none, got 1"),
        (["--workdir=x", "prompt"], "unexpected argument 'prompt'"),
    ],
)
def test_bad_input_is_one_line(words, complaint):
    done = run(*words)
    stderr = done.stderr.decode()
    assert done.returncode == 2
    assert complaint in stderr and stderr.count("\n") == 1 and not done.stdout
