"""FLOPs that a plan says against those that XLA counts in the same step."""

import jax
import pytest

from taxonomy import config as config_lib
from taxonomy import sharding
from taxonomy.scaling import accelerators
from taxonomy.scaling.estimate import estimate
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import abstract_batch, make_plan

WIDE = {"model.d_model": 512, "train.batch_tokens": 8192}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("llama:tiny", {"model.attention": "gqa(heads=4, kv_heads=2)", "model.mlp": "swiglu(d_ff=1536)", "train.remat": "full"}),
        ("t5:tiny", {"model.mlp": "relu(d_ff=2048)"}),
        ("bert:tiny", {"train.remat": "dots"}),
        ("glam:tiny", {}),
    ],
)
def test_flops_are_those_of_xla(name, overrides):
    """It counts operations on single elements too, which are few where layers are wide; of a scan it counts one turn."""
    once = {"mesh": "data:1", "train.scan": False, "train.loss_chunk": 1 << 20}
    plan = make_plan(config_lib.load_config(name, WIDE | once | overrides), 1)
    trainer = make_trainer(plan, sharding.make_mesh("data:1", jax.devices()[:1]))
    counted = trainer.lower(abstract_batch(plan, plan.batches.full)).cost_analysis()["flops"]
    said = estimate(plan, sharding.abstract_mesh("data:1", 1), accelerators.find("h100")).flops
    assert said < counted and said == pytest.approx(counted, rel=0.03)
