"""Studies: what they come to, cell by cell, what their plans warn of, and that predictions are honest."""

import json

import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy.errors import UserError
from taxonomy.scaling import cells as cells_lib
from taxonomy.scaling import (
    claims,
    conventions,
    figures,
    fits,
    forecast,
    holdout,
    parametric,
    ready,
    report,
    resolve,
    runner,
    study,
    tables,
    variants,
)
from taxonomy.scaling.cells import Cell
from taxonomy.scaling.fits import Options
from taxonomy.scaling.results import Runs
from taxonomy.scaling.study import Study
from taxonomy.training.plan import make_plan

from .common import LAW

SETTINGS = {
    "model.d_model": "{width}",
    "model.context": 64,
    "model.vocab": 264,
    "model.attention": "mha(heads={width/8})",
    "model.mlp": "gelu(d_ff=4*d_model)",
    "model.decoder": "{depth}*block",
    "data.tokenizer": "bytes()",
    "train.batch_tokens": 256,
    "train.schedule": "constant(peak={0.1/width})",
}
LADDER = (dict(width=8, depth=1), dict(width=16, depth=2), dict(width=32, depth=2))


def small(**changes) -> Study:
    return Study(**{"base": "quickstart", "settings": SETTINGS, "ladder": LADDER, **changes})


def test_budgets_become_steps():
    cells = resolve.resolve(small(budgets=(1e9, 4e9), holdout=(2e10,), centre="12e3*(flops/4e9)**0.5", sizes=2))
    assert [cell.id for cell in cells] == [
        "1e9-width8-depth1",
        "1e9-width16-depth2",
        "4e9-width16-depth2",
        "4e9-width32-depth2",
        "2e10-width32-depth2",
    ]
    assert [cell.holdout for cell in cells] == [False] * 4 + [True]
    for cell in cells:
        config = config_lib.from_json(json.dumps(cell.config))
        width = cell.values["width"]
        assert (config.model.d_model, config.model.attention) == (width, f"mha(heads={width // 8})")
        exact = conventions.training_flops(config.model)["exact"]
        assert cell.counts["flops"] == cell.counts["tokens"] * exact == config.train.steps * 256 * exact
        assert abs(cell.counts["flops"] - cell.budget) <= 256 * exact / 2
        assert cell.counts["params"] == cell.counts["params_body_head"] > cell.counts["params_body"] + 264 * width - 1
        assert cell.counts["learning_rate"] == pytest.approx(0.1 / width) and cell.counts["seed"] == 0
    # The name of a folder tells all that decides a result.
    other = resolve.resolve(small(budgets=(1e9, 4e9), settings=SETTINGS | {"train.clip": 0.5}))
    assert {cell.key for cell in cells}.isdisjoint(cell.key for cell in other)


def test_grids_and_ablations():
    grid = resolve.resolve(
        small(axes={"rate": (1e-3, 1e-2), "train.clip": (0.5, 1.0)}, seeds=(0, 1), tokens="2*params", ladder=LADDER[:1]).but(
            settings={"train.schedule": "constant(peak={rate*width/8})"}
        )
    )
    assert len(grid) == 8 and len({cell.id for cell in grid}) == 8
    assert {(c.counts["learning_rate"], c.config["train"]["clip"], c.config["seed"]) for c in grid} == {
        (rate, clip, seed) for rate in (1e-3, 1e-2) for clip in (0.5, 1.0) for seed in (0, 1)
    }
    assert grid[0].id == "width8-depth1-rate0.001-clip0.5-seed0"
    ideas = resolve.resolve(small(axes={"model.position": ("alibi", "t5_bias", "rope")}, compute="60*params*params"))
    assert len(ideas) == 9
    for rung in LADDER:
        same = [cell for cell in ideas if cell.values["width"] == rung["width"]]
        assert {cell.config["model"]["position"] for cell in same} == {"alibi", "t5_bias", "rope"}
        spent = [cell.counts["flops"] for cell in same]
        assert max(spent) / min(spent) < 1 + 2 / min(cell.counts["steps"] for cell in same)
    # Without any of them the config says how long.
    (plain,) = resolve.resolve(small(ladder=LADDER[:1], settings=SETTINGS | {"train.steps": 7}))
    assert (plain.counts["steps"], plain.counts["tokens"], plain.config["train"]["steps"]) == (7, 7 * 256, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": SETTINGS | {"model.positon": "rope"}}, "unknown key 'positon'; did you mean 'position'"),
        ({"settings": SETTINGS | {"train.schedule": "constant(peak={widht})"}}, "unknown scalar 'widht'; did you mean 'width'"),
        ({"settings": SETTINGS | {"train.schedule": "constant(peak={width)"}}, "braces that do not match"),
        ({"settings": SETTINGS | {"train.schedule": "constant(peak={-width})"}}, "width8-depth1: .*peak=-8"),
        ({"settings": SETTINGS | {"train.batch_ramp": "stages(first=1, later='2 from 5')"}}, "batch_ramp"),
        ({"ladder": LADDER[:1] * 2}, "two cells are called"),
        ({"count": "bodies"}, "unknown rule 'bodies'"),
        ({"tokens": "20*params"}, "say one of budgets, compute and tokens"),
        ({"holdout": (1e9,)}, "must be beyond the budgets"),
        ({"axes": {"rate": "1e-3"}}, "study.axes.rate"),
        ({"law": {"A": 1.0}}, "study.law"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UserError, match=message) as raised:
        resolve.resolve(small(**{"budgets": (1e9, 4e9), **changes}))
    assert "\n" not in str(raised.value)


def test_a_study_is_found_by_its_name():
    assert study.load("smoke").budgets == study.load(str(config_lib.folder() / "sweeps" / "smoke.py")).budgets
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        study.load("smok")
    with pytest.raises(UserError, match="defines no STUDY"):
        study.load(str(config_lib.folder() / "quickstart.py"))


def planned(budgets=(1e18, 1e19, 1e20), reach=3.0, sizes=5, shift=1.0, holdout=(1e21,), steps=1000) -> list[Cell]:
    """Cells of a sweep without configs, around the optimum of LAW."""
    cells = []
    for flops, held in [(flops, False) for flops in budgets] + [(flops, True) for flops in holdout]:
        for params in (
            shift * parametric.optimum(LAW, flops)[0] * (np.geomspace(1 / reach, reach, sizes) if not held else np.ones(1))
        ):
            tokens = flops / 6 / params
            counts = {"params": params, "tokens": tokens, "flops": flops, "flops_exact": flops, "steps": steps, "seed": 0}
            name = f"{flops:.0e}-{params:.3g}"
            cells.append(Cell(name, name, {}, {}, counts | {"batch_tokens": 512, "learning_rate": 1e-3}, flops, held))
    return cells


def warned(cells, corpus=1e30, **changes):
    what = Study(base="x", budgets=(1e18, 1e19, 1e20), holdout=(1e21,), **changes)
    return forecast.warnings(what, cells, corpus, LAW)


def test_plans_warn():
    assert warned(planned()) == []
    assert any("the optimum is expected at the edge" in one for one in warned(planned(shift=2.7)))
    assert any("is far from the middle" in one for one in warned(planned(shift=2.0)))
    assert any("beyond the sizes" in one for one in warned(planned(shift=6.0)))
    assert any("span a factor of 64" in one for one in warned(planned(reach=8)))
    assert any("2 cells, a parabola needs 3 sizes" in one for one in warned(planned(sizes=2)))
    assert any("see their data more than 1 times" in one for one in warned(planned(), corpus=1e9))
    assert any("not known before the first run" in one for one in warned(planned(), corpus=None))
    (left,) = resolve.resolve(small(ladder=LADDER[:1], budgets=(2e8,), least_steps=1000))
    assert left.left_out.endswith("steps, fewer than 1000")
    assert any("1 of 16 cells are left out" in one and left.left_out in one for one in warned([left, *planned()[:-1]]))


def test_the_expected_interval_is_that_of_the_fits():
    """Huber's loss at a delta far below the scatter is nearly the absolute deviation, sqrt(pi/2) times as wide as least squares.

    Those have a closed form: (J'J)^-1 for the derivatives J of log L by the parameters.
    """
    what = Study(base="x", budgets=(1e18, 1e19, 1e20), holdout=(1e21,))

    def width(cells, scatter, name="exponent"):
        found = forecast.intervals(what, cells, LAW, scatter)
        low, high = found[name]
        assert low < found["expected"][name] < high
        return high - low

    def closed_form(cells, scatter, nudge=1e-6):
        counts = np.array([(cell.counts["params"], cell.counts["tokens"]) for cell in cells]).T
        names = list(LAW)
        log_loss = lambda **law: np.log(parametric.loss(LAW | law, *counts))  # noqa: E731
        columns = [(log_loss(**{n: LAW[n] * (1 + nudge)}) - log_loss(**{n: LAW[n] * (1 - nudge)})) / (2 * nudge) for n in names]
        covariance = np.linalg.inv(np.array(columns) @ np.array(columns).T) * scatter**2
        # a = beta / (alpha + beta), by the logarithms of both.
        alpha, beta = LAW["alpha"], LAW["beta"]
        slope = np.array([{"alpha": -1, "beta": 1}.get(name, 0) for name in names]) * alpha * beta / (alpha + beta) ** 2
        return 2 * 1.96 * np.sqrt(slope @ covariance @ slope)

    few, many = planned(), planned(budgets=(1e17, 1e18, 1e19, 1e20, 3e20))
    for cells in (few, many):
        assert 1.0 < width(cells, 0.005) / closed_form(cells, 0.005) < 1.5
    assert width(few, 0.01) == pytest.approx(2 * width(few, 0.005), rel=0.3)
    assert width(many, 0.005) < 0.6 * width(few, 0.005)
    assert forecast.intervals(what, planned(budgets=(1e18,)), LAW, 0.01) is None
    said = {"intervals": forecast.intervals(what, few, LAW, 0.01, draws=20), "warnings": ["beware"]}
    shown = tables.plan(few, forecast.Speed(1e15, "a guess"), 1e10, said)
    assert "minutes for one worker at 1e15 FLOP/s" in shown and "N* ~ C^" in shown and shown.endswith("warning: beware")
    assert len({line.index(" 1000 ") for line in shown.splitlines()[1:17]}) == 1


def by_law(noise=0.002):
    generator = np.random.default_rng(1)

    def train(cell, claim):
        return {
            "loss": float(parametric.loss(LAW, cell.counts["params"], cell.counts["tokens"])) * np.exp(noise * generator.normal())
        }

    return train


@pytest.fixture
def fitted(tmp_path):
    """A workdir whose cells have ended, but for what is held out."""
    cells = planned(holdout=(1e21, 4e21))
    cells_lib.save(tmp_path, Study(base="x", budgets=(1e18,)), cells)
    with claims.Worker(tmp_path) as worker:
        runner.work(tmp_path, [cell for cell in cells if not cell.holdout], by_law(), worker, lambda _: None)
    return tmp_path, cells


def finish(workdir, cells, sealed, shift=1.0):
    """Trains what is held out, under a prediction; the law's loss times `shift`."""

    def train(cell, claim):
        return {"loss": shift * by_law(0.0)(cell, claim)["loss"], "prediction": sealed}

    held = [cell for cell in cells if cell.holdout]
    with claims.Worker(workdir) as worker:
        runner.work(workdir, held, train, worker, lambda _: None)
    return held, cells_lib.gather(workdir, cells)


@pytest.mark.parametrize(("shift", "inside"), [(1.0, True), (1.2, False)])
def test_a_prediction_is_frozen_and_compared(fitted, shift, inside):
    workdir, cells = fitted
    prediction = holdout.freeze(workdir, cells, Options(bootstraps=200, sensitivity=False))
    assert prediction["runs"] == 15 and [one["id"] for one in prediction["cells"]] == [cell.id for cell in cells if cell.holdout]
    # A second time it is what it was.
    assert holdout.freeze(workdir, cells, Options(bootstraps=5)) == prediction
    held, runs = finish(workdir, cells, prediction["sha256"], shift)
    assert {one["reason"] for one in runs.reasons()} == {"held out"} and len(runs) == 15
    found = holdout.verdict(workdir, held, prediction, runs)
    assert [one["inside"] for one in found["cells"]] == [inside] * 2 and not found["runs_changed"]
    assert found["cells"][0]["error_percent"] == pytest.approx(100 * (1 / shift - 1), abs=1.5)
    assert ("inside 95%" if inside else "outside 95%") in tables.verdict(found)
    assert json.loads((workdir / report.VERDICT).read_text()) == found


def test_dishonest_predictions_are_refused(fitted):
    workdir, cells = fitted
    options = Options(bootstraps=20, sensitivity=False)
    held = [cell for cell in cells if cell.holdout]
    (held[0].folder(workdir) / "run.1").mkdir(parents=True)
    with pytest.raises(UserError, match="was begun before a prediction was frozen"):
        holdout.freeze(workdir, cells, options)
    (held[0].folder(workdir) / "run.1").rmdir()
    held[0].folder(workdir).rmdir()
    result = cells[0].folder(workdir) / "result.json"
    kept = result.read_text()
    result.unlink()
    with pytest.raises(UserError, match="1 of 15 cells have not ended"):
        holdout.freeze(workdir, cells, options)
    result.write_text(kept)
    prediction = holdout.freeze(workdir, cells, options)
    path = workdir / holdout.FILE
    honest = path.read_text()
    changed = json.loads(honest)
    changed["cells"][0]["predicted"] += 0.01
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="was changed after it was frozen"):
        holdout.freeze(workdir, cells, options)
    with pytest.raises(UserError, match="predicts other cells"):
        path.write_text(honest)
        holdout.freeze(workdir, cells[:-1], options)
    finish(workdir, cells, "another")
    with pytest.raises(UserError, match="was trained under another prediction"):
        holdout.freeze(workdir, cells, options)
    with pytest.raises(UserError, match="holds nothing out"):
        holdout.freeze(workdir, cells[:3], options)
    assert prediction["sha256"] in honest


def test_variants_are_compared(tmp_path):
    """Ideas over FLOPs, with the spread of seeds; a grid of numbers over the numbers, a curve a size."""
    what = Study(base="x", axes={"model.position": ("rope", "alibi")}, ladder=(dict(width=8), dict(width=16)), seeds=(0, 1))
    rows = [
        {"id": f"{width}{idea}{seed}", "width": width, "model.position": idea, "flops": 1e9 * width + seed, "loss": loss + seed}
        for width, idea, loss in ((8, "rope", 4.0), (8, "alibi", 5.0), (16, "rope", 3.0), (16, "alibi", 2.0))
        for seed in (0, 1)
    ]
    x, found = variants.curves(what, Runs(tuple(rows)))
    assert (x, [one.label for one in found]) == ("flops", ["rope", "alibi"])
    assert found[1].mean_M.tolist() == [5.5, 2.5] and found[1].low_M.tolist() == [5, 2] and found[1].high_M.tolist() == [6, 3]
    assert [path.name for path in figures.draw(tmp_path, Runs(tuple(rows)), {}, what)] == ["variants.png"]
    grid = what.but(axes={"rate": (1e-3, 1e-2)}, seeds=(0,))
    rows = [{"id": f"{w}{r}", "width": w, "rate": r, "flops": 1.0, "loss": r + w} for w in (8, 16) for r in (1e-2, 1e-3)]
    x, found = variants.curves(grid, Runs(tuple(rows)))
    assert (x, [one.label for one in found]) == ("rate", ["width 8", "width 16"])
    assert found[0].x_M.tolist() == [1e-3, 1e-2] and found[0].mean_M.tolist() == [8.001, 8.01]


@pytest.mark.parametrize("name", ["smoke", "isoflop_stdlib", "taxonomy_ablation", "mup_learning_rate"])
def test_studies_that_ship(name):
    """Nothing is left out, no optimum is expected at an edge, and what is held out is beyond."""
    what = study.load(name)
    cells = resolve.resolve(what)
    assert not any(cell.left_out for cell in cells)
    said = forecast.warnings(what, cells, 9.6e6, what.law)
    assert not [one for one in said if "sizes" not in one], said
    spent = sum(cell.counts["flops"] for cell in cells)
    assert spent < {"smoke": 6e12, "isoflop_stdlib": 8e13, "taxonomy_ablation": 3e13, "mup_learning_rate": 8e13}[name]


def test_the_published_ladder():
    what = study.load("chinchilla")
    assert len(what.budgets) == 9 and {one["size"] for one in what.ladder} <= {
        size.removeprefix("sweep-") for size in config_lib.sizes("chinchilla") if size.startswith("sweep")
    }
    cells = resolve.resolve(what.but(ladder=what.ladder[:2], budgets=(1e19,), sizes=2, holdout=()))
    assert [cell.counts["learning_rate"] for cell in cells] == [pytest.approx(2e-4), pytest.approx(1.92e-4)]


def answer_to(flops, fit):
    from taxonomy.scaling import ask

    answer = ask.ask(fit, flops=flops)
    return answer | {"recipe": ask.recipe(answer, None)}


@pytest.fixture(scope="module")
def fit():
    from .common import planned as runs

    return fits.fit(runs(), "parametric", Options(bootstraps=0, sensitivity=False)) | {"samples": {"A": np.zeros(0)}}


def from_flags(command):
    """The config that a printed command trains."""
    import shlex

    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "taxonomy.train"] and words[-1].startswith("--workdir=runs/")
    pairs = [word.removeprefix("--config.").split("=", 1) for word in words[4:-1]]
    return config_lib.load_config(words[3].removeprefix("--config="), dict(pairs))


def test_the_study_itself_is_ready_at_another_budget(tmp_path, fit):
    what = small(budgets=(1e9, 4e9))
    cells_lib.save(tmp_path, what, resolve.resolve(what))
    answer = answer_to(3e10, fit) | {"params": 30e3}
    found = ready.ready(tmp_path, answer, fit, None)
    config = from_flags(found["command"])
    assert config.model.d_model == 32 and config.train.schedule == "constant(peak=0.003125)"
    assert make_plan(config, 1).tokens_before(config.train.steps) == pytest.approx(found["tokens"])
    exact = conventions.training_flops(config.model)["exact"]
    assert found["tokens"] * exact == pytest.approx(3e10, rel=0.01)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral", "t5"])
def test_any_family_is_ready_in_the_shape_of_a_ladder(fit, family):
    answer = answer_to(1e16, fit)
    found = ready.of_family(f"{family}:tiny", answer, fit, ((64, 4), (128, 8)), "total")
    config = from_flags(found["command"])
    plan = make_plan(config, 1)
    assert found["params"] == conventions.parameters(config.model)["total"]
    assert found["params"] == pytest.approx(answer["params"], rel=0.35)
    # Beyond the ladder depth grows as the width does.
    layers = sum(map(len, plan.model.stacks.values()))
    assert layers == pytest.approx(config.model.d_model / 16, rel=0.3)
    assert plan.tokens_before(plan.steps) == pytest.approx(found["tokens"], rel=0.01)
    assert plan.learning_rate(plan.steps // 2) > 0
