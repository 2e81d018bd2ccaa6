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
    many = "--config.train.batch_tokens=134217728"
    done = plan("--config=llama:tiny", many, "--mesh=data:8", "--topology=v5e:2x4")
    assert done.returncode == 2 and "tokens per second" in done.stdout
    assert "GB short on each device; try --config.train.remat=" in done.stderr
    assert "--config.train.microbatch_tokens=" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mesh=data:2",), "--accelerator: required without --topology"),
        (("--mesh=data:2", "--accelerator=v5"), "--accelerator: unknown 'v5'"),
        (("--mesh=data:-1", "--accelerator=v4"), "leaves open how many devices there are"),
        (("--mesh=data:2", "--accelerator=v4", "--compile"), "--compile: needs a --topology"),
        (("--accelerator=v4", "--search"), "--search: needs --topology, or --devices"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = plan("--config=llama:tiny", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_slices():
    assert topology.parse("v4:4x4x4").devices == 64 and topology.parse("tpu7x:2x2x1").devices == 8
    two = topology.parse("2*v4:4x4x4")
    assert (two.devices, two.slices, two.one, two.name, two.around) == (128, 2, "v4:4x4x4", "2*v4:4x4x4", 4)
    # What leaves a slice has the network.
    assert two.accelerator.sending(64) > two.accelerator.sending(65) == two.accelerator.network
    for text in ("v4", "v4:", "4x4", "h100:2x4", "0*v4:4x4x4"):
        with pytest.raises(UserError, match=r"--topology|--accelerator"):
            topology.parse(text)


def test_what_a_compiler_lacks_is_read():
    """In its own words."""
    said = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (75.34G) exceeds available"
    assert topology.TooLarge(said).temporary == 75.34 * 2**30 and topology.TooLarge("RESOURCE_EXHAUSTED").temporary is None


def test_a_search_proposes_what_fits():
    done = plan("--config=llama:tiny", "--accelerator=h100", "--devices=2", "--mesh=tensor:1", "--search", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["proposals"]
    assert [one["mesh"] for one in found] and found == sorted(found, key=lambda one: one["seconds"])
    assert all(one["bytes"] <= one["room"] for one in found)


@pytest.mark.parametrize(("slices", "mesh"), [("v5e:2x4", "fsdp:4,tensor:2"), ("2*v5e:2x2", "replica:2,fsdp:2,tensor:2")])
def test_the_compiler_of_a_slice_agrees(slices, mesh):
    """The very step, compiled for chips that are not there."""
    pytest.importorskip("libtpu")
    size = ("--config.model.context=128", "--config.train.stream=features")
    done = plan("--config=llama:tiny", f"--mesh={mesh}", f"--topology={slices}", "--compile", "--json", *size)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compiled"]["collectives"] and found["compiled"]["peak"] < 16 * 2**30
    # Attention: forward, and backward for queries and for keys and values.
    assert found["compiled"]["kernels"] == 3
