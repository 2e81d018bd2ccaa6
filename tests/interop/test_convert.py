"""The command: a checkpoint into a workdir, out of it, and its errors."""

import json
import pathlib
import subprocess
import sys

from taxonomy.interop import engine

from .published import byte_pairs, write

ROOT = pathlib.Path(__file__).parents[2]


def convert(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "taxonomy.convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_into_a_workdir_and_out(tiny, tmp_path):
    page = tiny("llama")
    theirs, workdir, back = tmp_path / "theirs", tmp_path / "workdir", tmp_path / "back"
    engine.to_hf(page.config, page.params, theirs)
    done = convert(f"--from_hf={theirs}", f"--workdir={workdir}")
    assert (done.returncode, done.stdout) == (0, f"{theirs} -> {workdir}\n"), done.stderr
    assert done.stderr == f"note: {workdir} has no tokenizer: no tokenizer.json or tokenizer.model in {theirs}\n"
    done = convert(f"--workdir={workdir}", f"--to_hf={back}")
    assert (done.returncode, done.stdout) == (0, f"{workdir} -> {back}\n"), done.stderr
    for name in ("config.json", "model.safetensors"):
        assert (theirs / name).read_bytes() == (back / name).read_bytes()


def test_the_tokenizer_travels_and_generates(tiny, tmp_path):
    """A converted workdir continues prompts at once; its tokenizer's files come out as they went in."""
    page = tiny("llama")
    theirs, workdir, back = tmp_path / "theirs", tmp_path / "workdir", tmp_path / "back"
    engine.to_hf(page.config, page.params, theirs)
    write(theirs, tokenizer=byte_pairs(template="<s> $A"), tokenizer_config={"eos_token": "</s>"})
    done = convert(f"--from_hf={theirs}", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    command = [sys.executable, "-m", "taxonomy.generate", f"--workdir={workdir}", "--prompt=def read", "--max_new_tokens=4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("def read")
    done = convert(f"--workdir={workdir}", f"--to_hf={back}", "--model_type=mistral")
    assert done.returncode == 0, done.stderr
    assert json.loads((back / "config.json").read_text())["model_type"] == "mistral"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (theirs / name).read_bytes() == (back / name).read_bytes()


def test_one_line_says_what_is_wrong(tmp_path):
    for arguments, words in (
        ((f"--workdir={tmp_path}",), "--from_hf, --to_hf: exactly one"),
        ((f"--from_hf={tmp_path / 'absent'}", f"--workdir={tmp_path}"), "absent is not a directory"),
    ):
        done = convert(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
