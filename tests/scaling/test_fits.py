"""Laws: gradients, recovery, other optimizers' objective, intervals that cover, and what a fit says of itself."""

import math

import numpy as np
import pytest

from scaling.common import LAW, planned, random_law, runs_of
from taxonomy.errors import UserError
from taxonomy.scaling import bootstrap, data_constrained, figures, fits, kaplan, minimize, overtraining, parametric, robust
from taxonomy.scaling.fits import Options

KAPLAN = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
QUICK = Options(bootstraps=0, sensitivity=False)


def repeated():
    """Runs on 1e9 to 1e10 unique tokens, up to 40 epochs, and some without repeats."""
    law = LAW | {"R_D": 15.0, "R_N": 5.0}
    rows = []
    for unique in (1e9, 4e9, 1e10):
        for params in (1e8, 1e9, 8e9):
            for epochs in (0.5, 1, 4, 12, 40):
                tokens, seen = epochs * unique, min(unique, epochs * unique)
                value = float(data_constrained.loss(law, params, tokens, seen))
                rows.append(
                    {"params": params, "tokens": tokens, "flops": 6 * params * tokens, "loss": value, "unique_tokens": seen}
                )
    return law, runs_of(rows)


def laws():
    runs = planned(noise=0.02)
    _, several = repeated()
    return {
        "parametric": parametric.Parametric.of(runs),
        "overtraining": overtraining.Overtraining.of(runs),
        "kaplan": kaplan.Kaplan.of(runs),
        "data_constrained": data_constrained.DataConstrained.of(several, LAW),
    }


@pytest.mark.parametrize("name", laws())
def test_gradients_are_analytic(name):
    law, generator = laws()[name], np.random.default_rng(0)
    for start in law.starts()[:3]:
        point, weights = start + 0.01 * generator.standard_normal(start.shape), generator.standard_normal((1, len(law.log_loss_R)))
        _, pull = law.log_losses(point[None])
        nudges = 1e-6 * np.eye(len(point))
        numeric = [
            (weights * (law.log_losses((point + n)[None])[0] - law.log_losses((point - n)[None])[0])).sum() / 2e-6 for n in nudges
        ]
        np.testing.assert_allclose(pull(weights)[0], numeric, rtol=1e-5, atol=1e-6 * np.abs(numeric).max())
        given = {key: float(value[0]) for key, value in law.parameters(point[None]).items()}
        np.testing.assert_allclose(law.point(given), point, rtol=1e-9)


def test_the_law_in_logarithms_is_the_law():
    """LSE of Hoffmann et al. against the sum that it stands for."""
    runs = planned()
    law = parametric.Parametric.of(runs)
    slow = [
        LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / d ** LAW["beta"] for n, d in zip(runs.params, runs.tokens, strict=True)
    ]
    np.testing.assert_allclose(np.exp(law.log_losses(law.point(LAW)[None])[0][0]), slow, rtol=1e-12)


@pytest.mark.parametrize("delta", [1e-3, 1e-2, np.inf])
def test_the_objective_is_hubers(delta):
    runs = planned(noise=0.01)
    law = parametric.Parametric.of(runs)
    slow = 0.0
    for n, d, value in zip(runs.params, runs.tokens, runs.loss, strict=True):
        error = abs(math.log(parametric.loss(LAW, n, d)) - math.log(value))
        slow += error**2 / 2 if error <= delta else delta * (error - delta / 2)
    assert robust.objectives(law, law.point(LAW)[None], delta)[0] == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize(
    ("method", "law", "loss"),
    [
        ("parametric", LAW, parametric.loss),
        ("overtraining", {"A": 166.2, "B": 287.2, "E": 1.837, "alpha": 0.2729}, overtraining.loss),
        ("kaplan", KAPLAN, kaplan.loss),
    ],
)
def test_a_law_without_noise_is_recovered(method, law, loss):
    found = fits.fit(planned(LAW | law, loss=loss), method, QUICK)
    for name, value in law.items():
        assert found["parameters"][name] == pytest.approx(value, rel=1e-3)
    assert found["r2"] > 1 - 1e-6 and found["starts"]["agreeing"] >= 1 and not found["excluded"]


def test_repeats_are_recovered():
    law, runs = repeated()
    given = fits.fit(runs, "data_constrained", Options(bootstraps=20, sensitivity=False, fixed=LAW))
    assert given["warnings"][-1] == "A, B, E, alpha, beta are held: intervals leave out theirs"
    assert given["parameters"]["R_D"] == pytest.approx(law["R_D"], rel=1e-3)
    assert given["parameters"]["R_N"] == pytest.approx(law["R_N"], rel=1e-3)
    assert min(given["profile"], key=lambda one: one["objective"])["R_D"] == 15.0
    # Without the five numbers they are those of the runs that repeat nothing.
    own = fits.fit(runs, "data_constrained", QUICK)["parameters"]
    once = fits.fit(runs.subset(runs.tokens <= runs.column("unique_tokens")), "parametric", QUICK)["parameters"]
    assert {name: own[name] for name in once} == once


def test_limits_of_repeated_data():
    law = LAW | {"R_D": 15.0, "R_N": 5.0}
    # Without repeats, and of a size that the tokens are optimal for or more: nothing is lost.
    tokens, params = 1e10, float(data_constrained.optimal_params(LAW, 1e10)) / 2
    assert data_constrained.loss(law, params, tokens, tokens) == pytest.approx(float(parametric.loss(LAW, params, tokens)))
    assert data_constrained.effective(1e9, 1e9, 15.0) == pytest.approx(16e9)
    best, data = parametric.optimum(LAW, 1e21)
    assert data_constrained.optimal_params(LAW, data) == pytest.approx(best)


def test_a_start_far_away_ends_at_the_same_optimum():
    """Parameters with a floor of their own, from which optimizers are known to stop short (Besiroglu et al. 2024)."""
    runs = planned(noise=0.005, budgets=9, sizes=12)
    free = fits.fit(runs, "parametric", QUICK)
    far = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
    stuck = fits.fit(runs, "parametric", Options(bootstraps=0, sensitivity=False, start=far))
    assert stuck["objective"] == pytest.approx(free["objective"], rel=1e-9)
    assert stuck["parameters"] == pytest.approx(free["parameters"], rel=1e-4)
    assert free["starts"]["agreeing"] >= 10


def test_intervals_cover():
    """95% intervals of ten random laws, 50 parameters; over a hundred laws they cover 95% of them."""
    inside = []
    for seed in range(10):
        law = random_law(np.random.default_rng(seed))
        found = fits.fit(planned(law, noise=0.003, seed=seed), "parametric", Options(bootstraps=100, sensitivity=False, seed=seed))
        inside += [low <= law[name] <= high for name, (low, high) in found["intervals"].items()]
    # Binomial with 0.95, parameters of a law dependent: fewer than 40 of 50 would be a fault.
    assert len(inside) == 50 and sum(inside) >= 40 and found["intervals"]["alpha"][0] < found["intervals"]["alpha"][1]


def test_intervals_of_held_out_runs_are_of_single_runs():
    """A run scatters about the law by more than the law is unsure of: of 20 runs 19 are expected inside."""
    held = tuple(f"run-{place}" for place in range(3, 83, 4))
    options = Options(bootstraps=200, sensitivity=False, holdout=held)
    found = fits.fit(planned(noise=0.005, budgets=8, sizes=11), "parametric", options)
    assert found["scatter"] == pytest.approx(0.005, rel=0.2)
    assert sum(one["inside"] for one in found["holdout"]) >= 17


def test_scatter_counts_what_is_left_to_vary():
    """Of 9 runs and 5 parameters: residuals are two thirds of the noise, `scatter` is the noise."""
    draws = [planned(noise=0.003, budgets=3, sizes=3, seed=seed) for seed in range(12)]
    squares = [fits.fit(runs, "parametric", QUICK)["scatter"] ** 2 for runs in draws]
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.003, rel=0.2)


def test_residuals_of_runs_of_one_loss_are_drawn():
    runs = runs_of({**row, "loss": 3.0} for row in planned(sizes=3).rows)
    found = fits.fit(runs, "parametric", QUICK)
    assert found["r2"] is None
    assert "(R2 ?)" in figures.residuals(runs, found).axes[0].get_title()


def test_seeds_are_resampled_inside_their_cell():
    rows = [{"params": 1e8 * (1 + place // 3), "tokens": 1e9, "flops": 1e18, "loss": 3.0, "seed": place % 3} for place in range(12)]
    weights = bootstrap.weights(runs_of(rows), 400)
    cells = weights.reshape(400, 4, 3).sum(2)
    assert (weights.sum(1) == 12).all() and (cells % 3 == 0).all()
    assert (weights.reshape(400, 4, 3) % 3 != 0).any(), "seeds of a cell were not resampled"
    alone = bootstrap.weights(runs_of([{**row, "seed": 0, "params": 1e8 + place} for place, row in enumerate(rows)]), 400)
    assert (alone.sum(1) == 12).all() and abs(alone.mean() - 1) < 1e-12 and 0.8 < alone.var() < 1.1


def test_a_fit_says_what_it_rests_on():
    runs = planned(noise=0.003)
    bodies = runs_of({**row, "params_body": 0.8 * row["params"]} for row in runs.rows).without({"run-0": "a reason"})
    found = fits.fit(bodies, "parametric", Options(bootstraps=40, holdout=("run-34",)))
    assert found["excluded"] == [{"id": "run-0", "reason": "a reason"}, {"id": "run-34", "reason": "held out"}]
    (held,) = found["holdout"]
    assert abs(held["error_percent"]) < 2 and held["interval"][0] < held["predicted"] < held["interval"][1]
    changes = [one["change"] for one in found["sensitivity"]]
    assert (
        changes[:2] == ["as fitted", "delta 1e-05"]
        and "without 1e+18 FLOPs (6 runs)" in changes
        and changes[-1] == "count params_body"
    )
    body = found["sensitivity"][-1]
    assert body["exponents"]["params"] == pytest.approx(found["exponents"]["params"], abs=1e-6)
    assert body["params"] != pytest.approx(found["sensitivity"][0]["params"], rel=1e-3)
    assert fits.fit(bodies, "parametric", Options(bootstraps=0, params="params_body"))["count"]["params"] == "params_body"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("parametrik", {}, "did you mean 'parametric'"),
        ("parametric", {"params": "params_body"}, "have no 'params_body'"),
        ("parametric", {"start": {"A": 1.0}}, "--start: expected a positive number for each of A, B, E, alpha, beta"),
        ("parametric", {"holdout": ("x",)}, "--holdout: no run has the id 'x'"),
        ("isoflop", {"holdout": ("run-1",)}, r"--holdout: isoflop predicts no loss \(allowed: --method=parametric, kaplan, "),
        ("isoflop", {"delta": 4.0}, "--delta: isoflop does not read it"),
        ("kaplan", {"fixed": LAW}, r"--fixed: kaplan does not read it \(allowed: --method=data_constrained\)"),
        ("data_constrained", {}, "have no 'unique_tokens'"),
        ("hyperparameters", {}, "have no 'learning_rate'"),
    ],
)
def test_mistakes_are_named(method, options, message):
    with pytest.raises(UserError, match=message):
        fits.fit(planned(), method, Options(bootstraps=0, **options))


def test_fits_are_kept(tmp_path):
    found = fits.fit(planned(noise=0.003), "parametric", Options(bootstraps=30, sensitivity=False))
    fits.save(tmp_path, found)
    kept = fits.load(tmp_path, "parametric")
    assert kept["parameters"] == found["parameters"] and kept["samples"]["E"].tolist() == found["samples"]["E"]
    with pytest.raises(UserError, match="sweep fit --method=kaplan"):
        fits.load(tmp_path, "kaplan")


def test_many_minimisations_are_each_of_them():
    """Rosenbrock's valley from several starts: the minimum, and the same alone as together."""

    def objective(point, _):
        x, y = point.T
        gradient = np.stack([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)], axis=1)
        return 100 * (y - x**2) ** 2 + (1 - x) ** 2, gradient

    starts = np.array([[-1.2, 1.0], [2.0, 2.0], [0.0, -1.0], [1.0, 1.0]])
    together = minimize.minimize(objective, starts)
    np.testing.assert_allclose(together.point_BP, 1.0, atol=1e-6)
    for start, point in zip(starts, together.point_BP, strict=True):
        np.testing.assert_array_equal(minimize.minimize(objective, start[None]).point_BP[0], point)
