"""The command that plans a run."""

import json
import subprocess
import sys

import pytest

from taxonomy.errors import UserError
from taxonomy.scaling import topology


def plan(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "taxonomy.plan", *arguments], capture_output=True, text=True)


def test_what_fits_is_described():
    done = plan("--config=llama:tiny", "--mesh=fsdp:2,tensor:2", "--accelerator=h100", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 4 and found["fits"] and 0 < found["model_flops_utilisation"] < 1
    assert found["bytes"]["total"] >= found["bytes"]["parameters"] + found["bytes"]["optimizer"]


def test_what_does_not_fit_says_how_much_is_missing_and_what_to_try():
    done = plan("--config=palm:62b", "--mesh=data:8", "--topology=v5e:2x4")
    assert done.returncode == 2 and "tokens per second" in done.stdout
    assert "GB short on each device; parameters and optimizer alone are too large" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mesh=data:2",), "--accelerator: required without --topology"),
        (("--mesh=data:2", "--accelerator=v5"), "--accelerator: unknown 'v5'"),
        (("--mesh=data:-1", "--accelerator=v4"), "leaves open how many devices there are"),
        (("--mesh=data:2", "--accelerator=v4", "--compile"), "--compile: needs a --topology"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = plan("--config=llama:tiny", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_slices():
    assert topology.parse("v4:4x4x4").devices == 64 and topology.parse("tpu7x:2x2x1").devices == 8
    for text in ("v4", "v4:", "4x4", "h100:2x4"):
        with pytest.raises(UserError, match=r"--topology|--accelerator"):
            topology.parse(text)


def test_the_compiler_of_a_slice_agrees():
    """The very step, compiled for chips that are not there."""
    pytest.importorskip("libtpu")
    size = ("--config.model.context=128", "--config.train.stream=features")
    done = plan("--config=llama:tiny", "--mesh=fsdp:4,tensor:2", "--topology=v5e:2x4", "--compile", "--json", *size)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compiled"]["collectives"] and found["compiled"]["peak"] < 16 * 2**30
    # Attention: forward, and backward for queries and for keys and values.
    assert found["compiled"]["kernels"] == 3
