"""Every field of a config is read before any device works, and a mistake names it."""

import pytest

from taxonomy.config import families, load_config, sizes
from taxonomy.errors import UserError
from taxonomy.training.plan import make_plan


def plan(devices=1, page="llama:tiny", **overrides):
    return make_plan(load_config(page, {key.replace("__", "."): value for key, value in overrides.items()}), devices)


@pytest.mark.parametrize("page", [f"{family}:{size}" if size else family for family in families() for size in sizes(family)])
def test_every_published_run_has_a_plan(page):
    """On as many devices as its batch divides over: one."""
    found = plan(page=page)
    assert found.steps >= 1 and found.batches.full * found.context == found.config.train.batch_tokens
    rates = [found.learning_rate(step) for step in (0, found.steps // 2, found.steps - 1)]
    assert min(rates) > 0 and max(rates) <= found.schedule.peak


def test_durations_become_steps():
    found = plan(train__steps=200, evaluation__every="5%", checkpoint__every="10240 tokens")
    assert (found.steps, found.evaluate_every, found.checkpoint_every) == (200, 10, 10)
    found = plan(train__steps=None, train__tokens=100_000, evaluation__every="7 steps")
    assert (found.steps, found.evaluate_every) == (98, 7)
    assert found.tokens_before(97) < 100_000 <= found.tokens_before(98)


@pytest.mark.parametrize(("microbatch", "parts"), [(None, 1), (1024, 1), (512, 2), (64, 16), (2048, 1)])
def test_a_batch_is_computed_in_parts(microbatch, parts):
    assert plan(train__microbatch_tokens=microbatch).microbatches(0) == parts


def test_a_small_batch_of_a_ramp_needs_fewer_parts():
    ramp = "stages(first=4, later='8 from 10, 16 from 20')"
    found = plan(train__batch_ramp=ramp, train__microbatch_tokens=256)
    assert [found.microbatches(step) for step in (0, 9, 10, 20)] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"train__dtype": "float16"}, "config.train.dtype: unknown value 'float16'; did you mean 'bfloat16'?"),
        ({"train__remat": "all"}, "config.train.remat: unknown policy 'all'"),
        ({"train__remat": "full,wide:dots"}, "config.train.remat: unknown block 'wide'"),
        ({"train__context": 0, "model__position": "learned"}, None),
        (
            {"train__context": 128, "model__position": "learned"},
            "config.train.context: 128; the model's learned positions allow 1 to 64",
        ),
        ({"train__context": -1}, "config.train.context: -1"),
        ({"train__batch_tokens": 0}, "config.train.batch_tokens: must be a multiple of the context 64, got 0"),
        ({"train__batch_tokens": 1000}, "config.train.batch_tokens: must be a multiple of the context 64, got 1000"),
        (
            {
                "data__source": "mixture(text(glob='a'), text(glob='b'), weights=(1, 1))",
                "model__mlp": "moe(experts=1, top_k=1, router=domain, expert=swiglu(d_ff=8))",
            },
            "config.data.source: 2 datasets, but the router domain has 1 experts",
        ),
        ({"train__steps": None}, "config.train: give either steps or tokens, got steps=None and tokens=None"),
        ({"train__tokens": 1e6}, "config.train: give either steps or tokens, got steps=100 and tokens=1000000.0"),
        ({"train__steps": 0}, "config.train.steps: at least 1 is needed, got 0"),
        ({"train__log_every": 0}, "config.train.log_every: at least 1 is needed, got 0"),
        ({"checkpoint__keep": 0}, "config.checkpoint.keep: at least 1 is needed, got 0"),
        ({"train__clip": -1}, "config.train.clip: must be above 0, got -1.0"),
        ({"train__microbatch_tokens": 100}, "config.train.microbatch_tokens: 100 must be a multiple of 64 x 1"),
        ({"train__microbatch_tokens": 320}, "config.train.microbatch_tokens: 320 must be"),
        ({"train__microbatch_tokens": 0}, "config.train.microbatch_tokens: 0 must be"),
        ({"train__optimizer": "adamm"}, "config.train.optimizer: unknown optimizer 'adamm'; did you mean 'adamw'?"),
        ({"train__schedule": "cosine"}, "config.train.schedule: cosine needs the argument 'peak'"),
        ({"train__batch_ramp": "lineal(start=1)"}, "config.train.batch_ramp: unknown batch_ramp 'lineal'; did you mean 'linear'?"),
        ({"evaluation__every": "often"}, "config.evaluation.every: expected a duration such as"),
        ({"checkpoint__every": "10"}, "config.checkpoint.every: expected a duration such as"),
        ({"model__attention": "gqa(heads=4, kv_heads=3)"}, "heads=4 is not a multiple of kv_heads=3"),
        ({"mesh": "data:4"}, "config.mesh: 'data:4' asks for 4 devices, 1 are there"),
    ],
)
def test_a_mistake_names_its_field(overrides, said):
    if said is None:
        assert plan(**overrides).context == 64
        return
    with pytest.raises(UserError) as e:
        plan(**overrides)
    assert said in str(e.value) and "\n" not in str(e.value) and e.value.exit_code == 2
