"""Answers: any of compute, size and data gives the others; intervals; and how far the question is from the runs."""

import numpy as np
import pytest

from scaling.common import LAW, planned
from taxonomy.errors import UserError
from taxonomy.scaling import accelerators, ask, fits, hyperparameters, parametric
from taxonomy.scaling.fits import Options


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two fits of a noisy sweep, read back."""
    workdir = tmp_path_factory.mktemp("sweep")
    for method in ("parametric", "isoflop"):
        fits.save(workdir, fits.fit(planned(noise=0.003), method, Options(bootstraps=100)))
    return {method: fits.load(workdir, method) for method in ("parametric", "isoflop")}


@pytest.mark.parametrize("method", ["parametric", "isoflop"])
def test_any_of_three_gives_the_others(kept, method):
    by_flops = ask.ask(kept[method], flops=1e22)
    by_params = ask.ask(kept[method], params=by_flops["params"])
    by_tokens = ask.ask(kept[method], tokens=by_flops["tokens"])
    for name in ("params", "tokens"):
        assert by_params[name] == pytest.approx(by_flops[name]) and by_tokens[name] == pytest.approx(by_flops[name])
    assert by_flops["extrapolation"]["flops"] == pytest.approx(10) and by_flops["optimal"]
    true = parametric.optimum(LAW, 1e22)
    for name, value in zip(("params", "tokens"), true, strict=True):
        low, high = by_flops["intervals"][name]
        assert low < by_flops[name] < high and low < value < high
    # In every sample D* is C/6 over N*, so that their ratio varies as the square of N* does.
    params, tokens = fits.METHODS[method].optimum(kept[method]["samples"], 1e22)
    np.testing.assert_allclose(6 * params * tokens, 1e22, rtol=1e-6)
    assert set(by_tokens["intervals"]) >= {"params", "tokens_per_param"} and "tokens" not in by_tokens["intervals"]


def test_a_loss_has_an_interval(kept):
    answer = ask.ask(kept["parametric"], flops=1e22)
    low, high = answer["intervals"]["loss"]
    assert low < answer["loss"] < high and answer["loss"] == pytest.approx(
        float(parametric.loss(LAW, *parametric.optimum(LAW, 1e22))), rel=0.01
    )
    assert 0.001 < answer["scatter"] < 0.006
    assert ask.ask(kept["isoflop"], flops=1e22)["loss"] is None


def test_two_of_three_are_a_model(kept):
    answer = ask.ask(kept["parametric"], params=1e9, tokens=1e12)
    assert not answer["optimal"] and answer["flops"] == pytest.approx(6e21)
    assert answer["optimum"]["loss"] < answer["loss"] and answer["optimum"]["params"] > 1e9
    again = ask.ask(kept["parametric"], flops=6e21, tokens=1e12)
    assert again["params"] == pytest.approx(1e9) and again["loss"] == pytest.approx(answer["loss"])
    with pytest.raises(UserError, match="say one or two"):
        ask.ask(kept["parametric"], flops=1e21, params=1e9, tokens=1e12)
    assert "times the largest run" in ask.ask(kept["parametric"], flops=1e26)["warnings"][0]


def test_the_recipe_is_a_law_of_somebody(kept):
    answer = ask.ask(kept["parametric"], flops=1e21)
    found = ask.recipe(answer, None)
    assert found["learning_rate"] == pytest.approx(1.79 * answer["params"] ** -0.713 * answer["tokens"] ** 0.307)
    own = dict.fromkeys(hyperparameters.NAMES, 0.0) | {"rate_coefficient": 0.01, "batch_coefficient": 64.0}
    assert ask.recipe(answer, {"parameters": own}) == {"learning_rate": 0.01, "batch_tokens": 64.0, "by": "these runs"}


def test_the_nearest_size_of_a_family(kept):
    answer = ask.ask(kept["parametric"], flops=1e19)
    near = ask.nearest_config(answer, kept["parametric"], "gpt2")
    assert near["config"] == "gpt2:355m" and near["loss_of_rounding"] > 0
    assert near["tokens"] == pytest.approx(1e19 / 6 / near["params"])
    assert near["command"].startswith("python -m taxonomy.train --config=gpt2:355m ")


def test_chips():
    assert accelerators.slice_flops("v5p-256") == 128 * 459e12
    assert accelerators.slice_flops("v3-8") == 8 * 61.5e12
    assert accelerators.slice_flops("H100-8") == 8 * 989e12
    for name, message in (("v5p", "a kind and a number"), ("v9-8", "got 'v9-8'"), ("v4-7", "not a multiple of 2")):
        with pytest.raises(UserError, match=message):
            accelerators.slice_flops(name)


def test_samples_that_failed_do_not_count(kept):
    fit = dict(kept["parametric"])
    fit["samples"] = {name: np.where(np.arange(len(v)) < 10, np.nan, v) for name, v in fit["samples"].items()}
    low, high = ask.ask(fit, flops=1e22)["intervals"]["params"]
    assert np.isfinite([low, high]).all()
