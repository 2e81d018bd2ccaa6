"""The generate command, from a workdir to text."""

import subprocess
import sys

import pytest

from taxonomy.data import tokenizers
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


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--prompt=x"], "--workdir: required"),
        (["--workdir=x", "--sampler=top_p(2)"], "--sampler: top_p: p=2.0 must be above 0 and at most 1"),
        (["--workdir=x", "--prompt_file=/nowhere"], "--prompt_file: cannot read /nowhere"),
        (["--workdir=x", "--max_new_tokens=0"], "--max_new_tokens: must be at least 1"),
        (["--workdir=x", "prompt"], "unexpected argument 'prompt'"),
    ],
)
def test_bad_input_is_one_line(words, complaint):
    done = run(*words)
    stderr = done.stderr.decode()
    assert done.returncode == 2
    assert complaint in stderr and stderr.count("\n") == 1 and not done.stdout
