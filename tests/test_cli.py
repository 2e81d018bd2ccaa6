"""Command lines: config flags, one-line errors, exit codes."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROGRAM = """
from absl import flags
from taxonomy import cli, errors

flags.DEFINE_integer("count", 1, "a flag of the command")

def main(argv):
    config = cli.config(required=False)
    if config is None:
        print("none", flags.FLAGS.count, argv[1:])
    elif config.seed == 99:
        raise errors.Diverged("step 7: the loss is nan")
    else:
        print(config.name, config.seed, config.model.position, flags.FLAGS.count, argv[1:])

cli.run(main)
"""


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ((), "none 1 []"),
        (("--config=gpt2:tiny",), "gpt2:tiny 0 learned 1 []"),
        (("--config", "gpt2:tiny,seed=2", "--count=3", "rest"), "gpt2:tiny 2 learned 3 ['rest']"),
        (("--config.seed=4", "--config.model.position", "alibi", "--config=gpt2:tiny,seed=2"), "gpt2:tiny 4 alibi 1 []"),
        (("-config=gpt2:tiny", "-config.model.position=rope(theta=1e4, dims=8)"), "gpt2:tiny 0 rope(theta=1e4, dims=8) 1 []"),
        (("--count=2", "--", "--config=gpt2:tiny"), "none 2 ['--config=gpt2:tiny']"),
    ],
)
def test_flags_are_read(arguments, printed):
    done = command(*arguments)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--config=gpt2:tyni",), 2, "did you mean 'tiny'?"),
        (("--config=gpt2:tiny", "--config.sed=1"), 2, "config.sed: unknown key 'sed'; did you mean 'seed'?"),
        (("--config=gpt2:tiny", "--config.seed=x"), 2, "config.seed: expected int, got 'x'"),
        (("--config.seed=1",), 2, "--config: required"),
        (("--config",), 2, "--config needs a value"),
        (("--count=x",), 2, "--count=x"),
        (("--cuont=3",), 2, "cuont"),
        (("--config=gpt2:tiny,seed=99",), 3, "step 7: the loss is nan"),
    ],
)
def test_a_mistake_is_told_on_stderr_with_its_exit_code(arguments, code, said):
    done = command(*arguments)
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2 and "Traceback" not in done.stderr
