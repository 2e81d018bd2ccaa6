"""Runs whose law is known."""

import csv

import numpy as np

from taxonomy.scaling import parametric
from taxonomy.scaling.results import Runs

# Besiroglu et al. 2024, arXiv:2404.10102, refitted.
LAW = {"A": 477.83, "B": 2143.42, "E": 1.8172, "alpha": 0.3473, "beta": 0.3672}


def runs_of(rows) -> Runs:
    return Runs(tuple({"id": f"run-{place}", **row} for place, row in enumerate(rows)))


def planned(law=LAW, budgets=5, sizes=7, reach=8.0, noise=0.0, seed=0, loss=parametric.loss, shift=1.0) -> Runs:
    """A sweep of isoFLOP curves, 1e18 to 1e21 FLOPs; sizes reach a factor to either side of `shift` times the optimum."""
    generator = np.random.default_rng(seed)
    rows = []
    for flops in np.geomspace(1e18, 1e21, budgets):
        for params in shift * parametric.optimum(LAW if "A" not in law else law, flops)[0] * np.geomspace(1 / reach, reach, sizes):
            tokens = flops / 6 / params
            value = float(loss(law, params, tokens)) * np.exp(noise * generator.standard_normal())
            rows.append({"params": params, "tokens": tokens, "flops": flops, "loss": value})
    return runs_of(rows)


def random_law(generator) -> dict[str, float]:
    """A law whose terms are of the size that language models have at 3e8 parameters and 6e9 tokens."""
    law = {"alpha": generator.uniform(0.28, 0.5), "beta": generator.uniform(0.28, 0.5), "E": generator.uniform(1.3, 2.2)}
    law["A"] = generator.uniform(0.25, 0.8) * 3e8 ** law["alpha"]
    return law | {"B": generator.uniform(0.25, 0.8) * 6e9 ** law["beta"]}


def write_table(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)
