"""What a search proposes: it is what plans say, nothing better is left out, and a trace serves the meshes it is said to serve."""

import dataclasses
import re

import pytest

from taxonomy import config as config_lib
from taxonomy import sharding
from taxonomy.errors import UserError
from taxonomy.scaling import accelerators, search
from taxonomy.scaling.estimate import estimate, placed, trace
from taxonomy.training.plan import make_plan

V5E = accelerators.find("v5e")


def planned(name: str, **overrides):
    """A plan of a tiny model on whatever mesh."""
    sizes = {"train__batch_tokens": 4096, "mesh": "data:1"} | overrides
    return make_plan(config_lib.load_config(name, {key.replace("__", "."): value for key, value in sizes.items()}), 1)


def small(megabytes: float):
    """An accelerator with so little memory."""
    return dataclasses.replace(V5E, memory=megabytes * 1e6)


@pytest.mark.parametrize(("name", "others"), [("gpt2:tiny", ""), ("glam:tiny", ",expert:2")])
def test_a_trace_serves_meshes_that_divide_rows_among_as_many(name, others):
    plan = planned(name, train__batch_tokens=1024)
    of, onto = (sharding.abstract_mesh(text + others, 16) for text in ("data:-1,fsdp:2", "fsdp:-1"))
    found, expected = placed(trace(plan, of), onto, V5E), estimate(plan, onto, V5E)
    assert dataclasses.replace(found, alive=()) == dataclasses.replace(expected, alive=())


def test_the_fastest_that_fits_is_first():
    found = search.Search(planned("llama:tiny", train__batch_tokens=512), 4, V5E, fixed={"tensor": 1})
    every = [
        found.at(sizes, policy, count) for sizes in found.meshes() for policy in search.POLICIES for count in found._counts(sizes)
    ]
    # Half of them would fit.
    middle = sorted(one.bytes for one in every)[len(every) // 2]
    found.excess = every[0].room / middle
    fits = [one.seconds for one in every if one.bytes <= middle]
    proposals = found.proposals(wanted=3)
    assert len(every) == 18 and len(fits) < 18
    assert [one.estimate.seconds for one in proposals] == sorted(one.estimate.seconds for one in proposals)
    assert proposals[0].estimate.seconds == min(fits)
    best = proposals[0]
    config = config_lib.load_config(
        "llama:tiny",
        {
            "train.batch_tokens": 512,
            "mesh": best.mesh,
            "train.remat": best.remat,
            "train.microbatch_tokens": best.microbatch_tokens,
        },
    )
    again = estimate(make_plan(config, 4), sharding.abstract_mesh(best.mesh, 4, V5E.kind), V5E)
    assert again.bytes == best.estimate.bytes and again.seconds == pytest.approx(best.estimate.seconds)


def test_candidates_divide_what_they_divide():
    plan = planned("llama:tiny", train__batch_tokens=64 * 24)  # 24 sequences, 4 heads
    meshes = list(search.Search(plan, 16, V5E, reach=8).meshes())
    assert meshes and all(sizes["tensor"] in (2, 4) and sizes["data"] * sizes["fsdp"] in (8, 4) for sizes in meshes)
    assert all(sizes["expert"] == 1 for sizes in meshes)
    fixed = search.Search(plan, 16, V5E, fixed={"tensor": 2}).meshes()
    assert {sizes["tensor"] for sizes in fixed} == {2}


def test_batches_of_a_ramp_fall_into_whole_microbatches():
    one = search.Search(planned("llama:tiny", train__batch_ramp="stages(first=12, later='64 from 10')"), 4, V5E)
    assert one._counts({"replica": 1, "data": 4, "fsdp": 1, "expert": 1}) == [1, 2, 4, 16]


def test_what_does_not_fit_is_told_what_would():
    plan = planned("llama:tiny", train__batch_tokens=256)
    sizes, state = sharding.parse_mesh("data:2", 2), estimate(plan, sharding.abstract_mesh("data:1", 1), V5E).arguments / 1e6
    assert search.nearest(plan, sizes, small(2 * state)).startswith("try --config.train.")
    assert re.match(r"no mesh of fewer devices is enough: try [248] with --mesh=", search.larger(plan, 1, small(0.9 * state)))
    uneven = planned("llama:tiny", train__batch_tokens=64 * 3)
    assert "no mesh divides 3 sequences" in search.larger(uneven, 32, V5E)


def test_part_of_a_mesh():
    assert search.fixed_sizes("tensor:2,fsdp:2", 8) == {"tensor": 2, "fsdp": 2}
    with pytest.raises(UserError, match="unknown axis 'tensr'"):
        search.fixed_sizes("tensr:2", 8)
