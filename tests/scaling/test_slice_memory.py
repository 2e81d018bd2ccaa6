"""Plans beside what the TPU's own compiler says of the very step, on slices that are not there. With libtpu alone; minutes."""

import pytest

from taxonomy import config as config_lib
from taxonomy import sharding
from taxonomy.scaling import topology
from taxonomy.scaling.estimate import estimate
from taxonomy.training.plan import make_plan

FULL = {"train.remat": "full"}
PLANS = {
    "palm:540b": ("v4:16x16x16", FULL | {"mesh": "fsdp:256,tensor:16", "train.microbatch_tokens": 524288}),
    "palm:8b": ("v4:4x4x4", FULL | {"mesh": "fsdp:16,tensor:4"}),
    "t5:11b": ("v4:4x4x8", FULL | {"mesh": "fsdp:32,tensor:4"}),
    "switch:c": ("v5p:8x8x8", FULL | {"mesh": "expert:512"}),
    "gpt2:774m": ("v5p:2x2x2", {"train.remat": "dots", "mesh": "fsdp:8", "train.microbatch_tokens": 131072}),
    "bert:large": ("v5e:4x4", FULL | {"mesh": "data:16"}),
    "llama:3-8b": ("v5p:4x4x4", FULL | {"mesh": "stage:4,fsdp:16"}),
    "llama:3.1-8b": ("v5p:4x4x4", FULL | {"mesh": "fsdp:16,sequence:4", "model.context": 8192}),
    "gpt3:6.7b": ("v5p:4x4x4", FULL | {"mesh": "fsdp:64", "train.batch_tokens": 2097152, "train.batch_ramp": "None"}),
}
# Last dimensions are stored in multiples of 128; those that weigh are 160 of gpt2's 1280 on a device, and 2080 of switch.
PADDED = {"gpt2:774m": 1.19, "switch:c": 1.02}
# Scores with biases, and weights with dropout, are not for the kernel.
WITHOUT_KERNEL = ("bert:large", "t5:11b", "switch:c")


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_needs_the_memory_that_it_says(name):
    pytest.importorskip("libtpu")
    slices, overrides = PLANS[name]
    where = topology.parse(slices)
    plan = make_plan(config_lib.load_config(name, overrides), where.devices)
    found = topology.compile_step(plan, where)
    said = estimate(plan, sharding.abstract_mesh(plan.config.mesh, where.devices, where.accelerator.kind), where.accelerator)
    print(f"{name}: {said.bytes / 1e9:.1f} GB said, {found.peak / 1e9:.1f} GB found in {found.seconds:.0f} s, {found.collectives}")
    assert said.arguments <= found.arguments <= said.arguments * PADDED.get(name, 1.001)
    assert 0.9 < said.bytes / found.peak < 1.1
    assert (found.kernels > 0) == (name not in WITHOUT_KERNEL)
