"""Closed forms against published numbers."""

import numpy as np
import pytest

from scaling.common import LAW, runs_of
from taxonomy import config as config_lib
from taxonomy.scaling import accounting, conventions, fits, hyperparameters, kaplan, noise_scale, overtraining, parametric
from taxonomy.scaling.fits import Options


def test_compute_optimal_models():
    """The refit of Besiroglu et al. 2024, arXiv:2404.10102, and the numbers in the TeX source of Hoffmann et al. 2022."""
    assert np.array(parametric.optimum(LAW, 5.76e23)) == pytest.approx([7.319e10, 1.312e12], rel=2e-3)
    printed = {"A": 406.40, "B": 410.72, "E": 1.6934, "alpha": 0.3392, "beta": 0.2849}
    assert np.array(parametric.optimum(printed, 5.76e23)) == pytest.approx([4.036e10, 2.379e12], rel=3e-3)
    assert parametric.exponents(printed)["params"] == pytest.approx(0.4565, abs=1e-4)


def test_the_optimum_is_the_least_loss():
    for module, law in ((parametric, LAW), (kaplan, {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095})):
        best, tokens = module.optimum(law, 1e21)
        assert 6 * best * tokens == pytest.approx(1e21)
        sizes = best * np.geomspace(0.5, 2, 401)
        assert sizes[module.loss(law, sizes, 1e21 / 6 / sizes).argmin()] == pytest.approx(best, rel=1e-3)
        ratio = module.optimum(law, 1e22)[0] / best
        assert np.log10(ratio) == pytest.approx(module.exponents(law)["params"], rel=1e-6)


def test_kaplan():
    assert float(kaplan.loss_of_params(1e8)) == pytest.approx(2.830, abs=5e-4)
    assert float(kaplan.loss_of_params(1e9)) == pytest.approx(2.376, abs=5e-4)
    # GPT-2 XL, 48 layers of 1600: 1.475e9 without tables.
    assert kaplan.body_parameters(48, 1600) == pytest.approx(1.475e9, rel=1e-3)
    assert kaplan.body_parameters(2, 64) == 2 * 12 * 64**2
    assert kaplan.forward_flops_per_token(100, 2, 8, 4) == 200 + 2 * 2 * 8 * 4
    # Infinite data leaves the law of parameters.
    law = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
    assert kaplan.loss(law, 1e9, 1e40) == pytest.approx(float(kaplan.loss_of_params(1e9)), rel=1e-6)


def test_overtraining_in_compute_and_ratio():
    """L(C, M) as Gadre et al. write it is the law that is fitted."""
    law = {"A": 166.2, "B": 287.2, "E": 1.837, "alpha": 0.2729}
    paper = overtraining.published_form(law)
    params, ratio = 3e8, 160.0
    tokens = params * ratio
    flops = 6 * params * tokens
    written = law["E"] + (paper["a"] * ratio ** paper["eta"] + paper["b"] * ratio ** -paper["eta"]) * flops ** -paper["eta"]
    assert overtraining.loss(law, params, tokens) == pytest.approx(written)


@pytest.mark.parametrize(
    ("size", "layers", "heads", "ratio"),
    [
        ("74m", 10, 10, 1.0250),
        ("306m", 20, 16, 1.1008),
        ("552m", 24, 10, 1.0829),
        ("1143m", 26, 14, 1.0441),
        ("1593m", 28, 16, 1.0329),
        ("6796m", 40, 28, 0.9941),
    ],
)
def test_flops_of_table_a4(size, layers, heads, ratio):
    """Hoffmann et al. 2022, arXiv:2203.15556, Table A4: FLOPs of appendix F over 6 N D.

    All pairs count and a softmax costs 3 a score; embedding and logits do not count. Distances cost parameters but no FLOPs, as
    in a model with rotary positions.
    """
    name = f"chinchilla:sweep-{size}"
    params = accounting.count(config_lib.load_config(name).model).parameters
    model = config_lib.load_config(name, {"model.position": "rope"}).model
    d, vocab, time = model.d_model, model.vocab, 2048
    layer = 6 * d * d + 2 * time * d + 3 * heads * time + 2 * time * d + 2 * d * d + 16 * d * d
    counted = conventions.training_flops(model, time)["appendix_f"]
    assert counted == 3 * (2 * vocab * d + layers * layer + 2 * d * vocab)
    assert (counted - 3 * 4 * vocab * d) / (6 * params) == pytest.approx(ratio, abs=0.005)


def test_conventions():
    """GPT-2 of 12 layers and 768 features, tied, at 1024 tokens, from its shape alone."""
    model = config_lib.load_config("gpt2:124m").model
    layers, d, vocab, time = 12, 768, 50257, 1024
    weights, others = layers * 12 * d * d, layers * (13 * d) + 2 * d
    found = conventions.parameters(model)
    assert found == {"body": weights + others, "body_head": weights + others + vocab * d, "total": 124439808}
    flops = conventions.training_flops(model)
    assert flops["6n"] == 6 * 124439808 and flops["6n_without_embeddings"] == 6 * found["body"]
    assert flops["6n_12lhqt"] == 6 * found["body_head"] + 12 * layers * d * time
    assert flops["exact"] == 6 * (weights + vocab * d) + 12 * layers * d * (time + 1) / 2
    untied = conventions.parameters(config_lib.load_config("gpt2:124m", {"model.head": "untied"}).model)
    assert untied["body"] == found["body"] and untied["total"] == found["total"] + vocab * d


def test_learning_rates_of_a_known_law():
    generator = np.random.default_rng(0)
    rows = []
    law = hyperparameters.STEP_LAW
    for params in (1e8, 3e8, 1e9):
        for tokens in (2e9, 1e10, 5e10):
            best = hyperparameters.learning_rate(law, params, tokens), hyperparameters.batch(law, params, tokens)
            for rate in best[0] * 2.0 ** np.arange(-2, 3):
                for batch in best[1] * 2.0 ** np.arange(-1, 2):
                    off = np.log(rate / best[0]) ** 2 + 0.5 * np.log(batch / best[1]) ** 2
                    loss = 2.5 + 0.02 * off + 1e-4 * generator.standard_normal()
                    rows.append(
                        {
                            "params": params,
                            "tokens": tokens,
                            "flops": 6 * params * tokens,
                            "loss": loss,
                            "learning_rate": rate,
                            "batch_tokens": batch,
                        }
                    )
    rows.append(rows[0] | {"params": 5e7})
    found = fits.fit(runs_of(rows), "hyperparameters", Options(bootstraps=100))
    assert found["parameters"] == pytest.approx(law, rel=1e-6)
    assert found["regret"]["fitted"]["max_percent"] == found["regret"]["step_law"]["max_percent"] == 0
    assert found["cells"] == 9 and "fewer than 4 settings" in found["excluded"][0]["reason"]


def test_the_noise_scale_of_a_quadratic():
    """Gradients of a known mean and covariance: B_simple = tr(Sigma) / |G|^2."""
    generator = np.random.default_rng(0)
    gradient, deviations = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 2.0])
    drawn = gradient + deviations * generator.standard_normal((2000, 64, 3))
    small = (drawn[:, :4].mean(1) ** 2).sum(1)
    large = (drawn.mean(1) ** 2).sum(1)
    found = noise_scale.noise_scale(small, large, 4, 64)
    assert found.squared_gradient == pytest.approx(5.25, rel=0.03)
    assert found.noise == pytest.approx(14.0, rel=0.05)
    assert found.simple == pytest.approx(14 / 5.25, rel=0.08)
    with pytest.raises(ValueError, match="small_batch < large_batch"):
        noise_scale.noise_scale(1.0, 1.0, 8, 8)


def test_steps_and_examples_of_a_batch():
    for batch in (10.0, 100.0, 1000.0):
        steps, examples = noise_scale.steps_and_examples(batch, critical_batch=100.0, least_steps=500.0)
        assert examples == pytest.approx(steps * batch)
        assert (steps / 500 - 1) * (examples / 50000 - 1) == pytest.approx(1)
    batches = np.array([16.0, 64.0, 256.0, 1024.0])
    assert noise_scale.critical_batch(batches, 500 * (1 + 100 / batches)) == pytest.approx((100, 500))
    assert noise_scale.critical_batch_of_loss(1.0) == 2e8
