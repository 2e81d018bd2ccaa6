"""Durations, learning rates and batch sizes at points worked out by hand."""

import itertools
import math

import pytest

from taxonomy import registry
from taxonomy.config import load_config
from taxonomy.errors import UserError
from taxonomy.training.plan import make_plan
from taxonomy.training.schedules import BatchPlan, Duration, Progress

TOKENS_PER_STEP = 1000


def at(step: int, total: int = 1000, tokens: int | None = None) -> Progress:
    """Progress in a run of `total` steps of 1000 tokens."""
    return Progress(step, step * TOKENS_PER_STEP if tokens is None else tokens, total, total * TOKENS_PER_STEP)


def schedule(sentence: str):
    return registry.create("schedule", sentence, "config.train.schedule")


def ramp(sentence: str):
    return registry.create("batch_ramp", sentence, "config.train.batch_ramp")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("200 steps", 200),
        ("1 step", 1),
        ("0 steps", 1),
        ("5%", 50),
        ("0.01%", 1),
        ("2.5e5 tokens", 250),
        ("1 token", 1),
        ("1499 tokens", 1),
        ("1501 tokens", 2),
        (" 375e+2  tokens ", 38),
    ],
)
def test_a_duration_in_steps_is_at_least_one(text, steps):
    assert Duration.parse(text).steps(1000, TOKENS_PER_STEP) == steps


@pytest.mark.parametrize(
    ("text", "fraction"), [("100 steps", 0.5), ("25%", 0.2), ("200e3 tokens", 0.25), ("0 steps", math.inf), ("0%", math.inf)]
)
def test_a_fraction_is_one_at_the_durations_end(text, fraction):
    assert Duration.parse(text).fraction(at(50)) == pytest.approx(fraction)


@pytest.mark.parametrize("text", ["", "5", "steps", "-5 steps", "5 epochs", "1..5 steps", "5 % of it", "e%", None, 100])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UserError, match=r"config\.checkpoint\.every: expected a duration such as '2000 steps'") as e:
        Duration.parse(text, "config.checkpoint.every")
    assert repr(text) in str(e.value) and "\n" not in str(e.value)


PALM = "inverse_sqrt(peak=1e-2, hold='10000 steps')"
GPT3 = "cosine(peak=6e-4, warmup='375e6 tokens', until='260e9 tokens', final=0.1)"
SQRT_HALF = 2**-0.5


@pytest.mark.parametrize(
    ("sentence", "points"),
    [
        ("constant(peak=0.5)", {0: 0.5, 1: 0.5, 999: 0.5}),
        ("constant(peak=0.5, warmup='4 steps')", {0: 0.125, 1: 0.25, 2: 0.375, 3: 0.5, 4: 0.5, 999: 0.5}),
        ("constant(peak=0.5, warmup='1%')", {0: 0.05, 4: 0.25, 9: 0.5, 10: 0.5}),
        # Half a cosine over steps 100..1000: a quarter of the way in it is (1 + cos 45 degrees) / 2.
        (
            "cosine(peak=2.0, warmup='100 steps', final=0.1)",
            {
                0: 0.02,
                49: 1.0,
                99: 2.0,
                100: 2.0,
                325: 2 * (0.1 + 0.9 * (1 + SQRT_HALF) / 2),
                550: 1.1,
                775: 2 * (0.1 + 0.9 * (1 - SQRT_HALF) / 2),
                1000: 0.2,
                2000: 0.2,
            },
        ),
        ("cosine(peak=1.0)", {0: 1.0, 500: 0.5, 1000: 0.0}),
        ("cosine(peak=1.0, until='200 steps')", {0: 1.0, 50: (1 + SQRT_HALF) / 2, 100: 0.5, 200: 0.0, 900: 0.0}),
        ("linear(peak=1.0, warmup='10%', final=0.2)", {0: 0.01, 99: 1.0, 100: 1.0, 325: 0.8, 550: 0.6, 1000: 0.2, 1001: 0.2}),
        ("linear(peak=1.0, warmup='100 steps', power=3)", {99: 1.0, 550: 0.125, 1000: 0.0}),
        ("linear(peak=1.0, warmup='100 steps', until='50%')", {99: 1.0, 200: 0.75, 300: 0.5, 500: 0.0, 600: 0.0}),
        # Units may differ: 100e3 tokens are 100 steps.
        ("linear(peak=1.0, warmup='100 steps', until='500e3 tokens')", {99: 1.0, 200: 0.75, 300: 0.5, 500: 0.0, 600: 0.0}),
        (PALM, {0: 0.01, 9_999: 0.01, 10_000: 0.01, 40_000: 0.005, 90_000: 0.01 / 3, 250_000: 0.002}),
        (
            "inverse_sqrt(peak=1.0, hold='10%', warmup='10 steps')",
            {0: 0.1, 4: 0.5, 9: 1.0, 100: 1.0, 225: 2 / 3, 400: 0.5, 900: 1 / 3},
        ),
        (
            "wsd(peak=1.0, warmup='10 steps', decay='20%', final=0.5)",
            {0: 0.1, 9: 1.0, 10: 1.0, 799: 1.0, 800: 1.0, 900: 0.75, 950: 0.625, 1000: 0.5},
        ),
        ("wsd(peak=1.0, decay='400 steps')", {0: 1.0, 600: 1.0, 700: 0.75, 800: 0.5, 1000: 0.0}),
        ("wsd(peak=1.0, decay='100%')", {0: 1.0, 500: 0.5, 1000: 0.0}),
        ("stages(peak=2.0, warmup='4 steps', later='0.5 at 60%, 0.1 at 900e3 tokens')", {0: 0.5, 599: 2.0, 600: 1.0, 900: 0.2}),
        (
            "stages(peak=1.0, later='1 by 400 steps, 0.2 by 800 steps, 0.2 by 85%, 0.1 at 85%')",
            {0: 1.0, 400: 1.0, 500: 0.6 + 0.2 * 2**0.5, 600: 0.6, 800: 0.2, 849: 0.2, 850: 0.1, 1000: 0.1},
        ),
    ],
)
def test_rates_at_points(sentence, points):
    rate = schedule(sentence)
    assert {step: rate(at(step)) for step in points} == pytest.approx(points, rel=1e-12, abs=1e-15)


def test_the_rate_of_gpt3():
    """Warmup over 375 million tokens, a cosine from there to a tenth at 260 billion of 300."""
    rate, step = schedule(GPT3), 500_000
    total, steps = 300_000_000_000, 600_000

    def on(tokens):
        return rate(Progress(tokens // step, int(tokens), steps, total))

    middle = (375e6 + 260e9) / 2
    assert 0 < on(0) < 6e-4 * 1e-6
    assert on(187_500_000) == pytest.approx(3e-4, rel=1e-6)
    assert on(375e6) == pytest.approx(6e-4, rel=1e-9)
    assert on(middle) == pytest.approx(6e-4 * 0.55, rel=1e-9)
    assert on(260e9) == on(299e9) == pytest.approx(6e-5, rel=1e-9)


@pytest.mark.parametrize("entry", registry.entries("schedule"), ids=lambda entry: entry.name)
def test_every_schedule_rises_and_never_exceeds_its_peak(entry):
    needed = {"hold": "'40%'", "later": "'0.9 by 60%, 0.5 at 80%'"}
    arguments = "".join(f", {name}={text}" for name, text in needed.items() if name in entry.arguments)
    rates = [schedule(f"{entry.name}(peak=3.0, warmup='50 steps'{arguments})")(at(step)) for step in range(1000)]
    assert 0 < rates[0] <= 3 / 40
    assert all(a < b for a, b in itertools.pairwise(rates[:40]))
    assert max(rates) <= 3.0 and max(rates) > 2.9 and min(rates) > 0
    later = rates[50:]
    assert all(a >= b for a, b in itertools.pairwise(later))


@pytest.mark.parametrize(
    ("kind", "sentence", "said"),
    [
        ("schedule", "cosine(peak=0)", "peak=0.0 must be above 0"),
        ("schedule", "cosine(peak=1e-3, warmup='5')", "warmup: expected a duration such as '2000 steps'"),
        ("schedule", "linear(peak=1e-3, until='x')", "until: expected a duration"),
        ("schedule", "inverse_sqrt(peak=1e-3)", "needs the argument 'hold'"),
        ("schedule", "inverse_sqrt(peak=1e-3, hold='0 steps')", "hold='0 steps' must be above 0"),
        ("schedule", "wsd(peak=1e-3, decay='0%')", "decay='0%' must be above 0"),
        ("schedule", "wsd(peek=1e-3)", "no argument 'peek'; did you mean 'peak'"),
        ("schedule", "stages(peak=1, later='0.5 to 60%')", "later='0.5 to 60%' must look like '1 by 10e12 tokens"),
        ("schedule", "stages(peak=1, later='0.5 at 60%, 2 by 1e9 tokens')", "has 2: shares of the peak are at most 1"),
        ("batch_ramp", "linear(start=32e3, over='10 steps')", "over='10 steps' must be in tokens"),
        ("batch_ramp", "linear(start=0, over='1e6 tokens')", "must be above 0"),
        ("batch_ramp", "linear(start=32e3, over='1e6 tokens', increments=0)", "must be above 0"),
        ("batch_ramp", "stages(first=4, later='8 at 100')", "must look like"),
        (
            "batch_ramp",
            "stages(first=4, later='8 from 100, 16 from 50')",
            "later='8 from 100, 16 from 50' must name later and later steps",
        ),
        ("batch_ramp", "stages(first=0, later='8 from 100')", "first=0 and all later batches must be above 0"),
    ],
)
def test_an_impossible_sentence_is_refused(kind, sentence, said):
    with pytest.raises(UserError) as e:
        registry.create(kind, sentence, "config.train.KEY")
    assert said in str(e.value) and str(e.value).startswith("config.train.KEY") and "\n" not in str(e.value)


PLANS = [
    BatchPlan(8),
    BatchPlan(8, ((2, 3), (4, 5))),
    BatchPlan(5, ((1, 1), (2, 1), (3, 1))),
    BatchPlan(7, ((3, 10), (7, 0), (2, 4))),
]


@pytest.mark.parametrize("plan", PLANS)
def test_the_position_in_the_data_is_the_sum_of_the_batches(plan):
    for step in range(30):
        assert plan.before(step) == sum(plan.sequences(s) for s in range(step))


@pytest.mark.parametrize("plan", PLANS)
def test_steps_for_is_the_inverse_of_before(plan):
    for step in range(1, 30):
        assert plan.steps_for(plan.before(step)) == step
    for sequences in range(1, 120):
        steps = plan.steps_for(sequences)
        assert plan.before(steps - 1) < sequences <= plan.before(steps)


def test_the_batches_of_palm():
    """512 sequences until step 50k, 1024 until 115k, 2048 until 255k: 780 billion tokens (arXiv:2204.02311, section 5)."""
    stages = ramp("stages(first=512, later='1024 from 50000, 2048 from 115000')").stages(2048, 2048)
    assert stages == [(512, 50_000), (1024, 65_000)]
    plan = BatchPlan(2048, tuple(stages))
    changes = [49_999, 50_000, 114_999, 115_000, 254_999]
    assert [plan.sequences(step) for step in changes] == [512, 1024, 1024, 2048, 2048]
    assert plan.before(255_000) * 2048 == pytest.approx(780e9, rel=0.01)


def test_a_linear_ramp_rises_by_equal_parts_over_its_tokens():
    stages = ramp("linear(start=32e3, over='4e9 tokens')").stages(244, 2048)
    sizes = [size for size, _ in stages]
    assert sizes[0] == 16 and len(sizes) == 16 and max(sizes) < 244
    rises = [b - a for a, b in itertools.pairwise((*sizes, 244))]
    assert set(rises) <= {14, 15} and sum(rises) == 244 - 16
    for size, count in stages:
        assert size * count * 2048 == pytest.approx(4e9 / 16, rel=0.001)
    assert sum(s * n for s, n in stages) * 2048 == pytest.approx(4e9, rel=0.001)


def test_a_ramp_that_starts_at_the_full_batch_is_none():
    assert ramp("linear(start=1e6, over='4e9 tokens')").stages(16, 64) == []
    assert ramp("linear(start=1e3, over='4e9 tokens', increments=4)").stages(16, 64) == []


def test_a_ramp_in_a_run():
    """Batches stay multiples of the mesh's rows, and the run ends at its tokens."""
    overrides = {
        "train.steps": None,
        "train.tokens": 64e3,
        "train.batch_ramp": "linear(start=128, over='10e3 tokens', increments=7)",
        "mesh": "data:4",
    }
    plan = make_plan(load_config("gpt2:tiny", overrides), 4)
    sizes = [plan.batches.sequences(s) for s in range(plan.steps)]
    assert sizes[0] == 4 and sizes[-1] == 16 and sizes == sorted(sizes) and all(size % 4 == 0 for size in sizes)
    assert plan.tokens_before(plan.steps - 1) < 64e3 <= plan.tokens_before(plan.steps)
    assert plan.progress(plan.steps).total_tokens == plan.tokens_before(plan.steps) == sum(sizes) * 64
