"""IsoFLOP curves: approach 2 of Hoffmann et al. 2022, arXiv:2203.15556, section 3.2.

For each budget of compute a parabola of the loss in log N (and in log D) has its minimum at N* (and D*); straight lines through
the minima in logarithms are N* ~ C^a and D* ~ C^b. The curves of the laws are not parabolas: exponents survive that and
intercepts do not, the less the wider and the less centred the curves are, hence the warnings. Intervals resample the residuals of
the parabolas, for N and for D the same ones, since D = C/6N ties them.
"""

import dataclasses

import numpy as np

from taxonomy.errors import UserError
from taxonomy.scaling import budgets as budgets_lib
from taxonomy.scaling import power_law
from taxonomy.scaling.results import Runs

NAMES = ("params_coefficient", "params_exponent", "tokens_coefficient", "tokens_exponent")
WIDE = 16.0  # from the smallest size to the largest: a factor of four to either side
OFF_CENTRE = 0.25  # of the width, from the middle


@dataclasses.dataclass(frozen=True)
class Curve:
    """The runs of one budget, (M,) each, and the minimum of their parabola; `reason` says why the minimum does not count."""

    flops: float
    params_M: np.ndarray
    tokens_M: np.ndarray
    loss_M: np.ndarray
    params: float
    tokens: float
    loss: float
    coefficients: tuple[float, float, float]  # of the loss in log(N / N*), from the square down
    reason: str
    warnings: tuple[str, ...]

    def shown(self) -> dict:
        return {
            "flops": self.flops,
            "runs": len(self.params_M),
            **({"params": self.params, "tokens": self.tokens, "loss": self.loss} if not self.reason else {"reason": self.reason}),
        }


def curves(runs: Runs, budgets: list[float] | None = None) -> tuple[list[Curve], Runs]:
    """A curve for every budget, and the runs with those excluded that belong to none."""
    index, values = budgets_lib.group(runs, budgets)
    outside = {
        row["id"]: f"{row['flops']:.3g} FLOPs belong to none of the budgets"
        for row, at in zip(runs.rows, index, strict=True)
        if at < 0
    }
    found = [_curve(flops, runs.subset(index == place)) for place, flops in enumerate(values) if (index == place).any()]
    return found, runs.without(outside)


def fit(curves: list[Curve], draws: int = 0, seed: int = 0) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The parameters of N* and D*, and samples of them; none where the parabolas go through every run."""
    used = [curve for curve in curves if not curve.reason]
    if len(used) < 2:
        reasons = "; ".join(f"{curve.flops:.2g}: {curve.reason}" for curve in curves if curve.reason)
        raise UserError(
            f"isoflop: {len(used)} budgets have a minimum, at least 2 are needed ({reasons or 'name them with --budgets'})"
        )
    flops = np.array([curve.flops for curve in used])
    params, tokens = (np.array([[getattr(curve, name) for curve in used]]) for name in ("params", "tokens"))
    found = {name: float(value[0]) for name, value in _lines(flops, params, tokens).items()}
    runs = sum(len(c.loss_M) for c in used)
    freedom = runs - 3 * len(used)
    if not draws or freedom < 1:
        return found, {name: np.zeros(0) for name in NAMES}
    generator = np.random.default_rng(seed)
    picks = [generator.integers(runs, size=(draws, len(c.loss_M))) for c in used]
    fitted = {
        name: [np.polyval(np.polyfit(np.log(getattr(c, name)), c.loss_M, 2), np.log(getattr(c, name))) for c in used]
        for name in ("params_M", "tokens_M")
    }
    samples = {}
    for name, lines in fitted.items():
        errors = [c.loss_M - line for c, line in zip(used, lines, strict=True)]
        pool = np.concatenate(errors) * np.sqrt(runs / freedom)
        drawn = [line + pool[pick] for line, pick in zip(lines, picks, strict=True)]
        samples[name] = np.stack([_minima(np.log(getattr(c, name)), loss) for c, loss in zip(used, drawn, strict=True)], axis=1)
    return found, _lines(flops, samples["params_M"], samples["tokens_M"])


def _lines(flops_K, params_BK, tokens_BK) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, (*power_law.fit(flops_K, params_BK), *power_law.fit(flops_K, tokens_BK)), strict=True))


def _minima(x_M: np.ndarray, loss_BM: np.ndarray) -> np.ndarray:
    """Where the parabolas through samples of the loss are least; NaN where they open downwards or leave the sizes by far."""
    middle = x_M.mean()
    square, linear, _ = np.polyfit(x_M - middle, loss_BM.T, 2)
    with np.errstate(all="ignore"):
        at = middle - linear / (2 * square)
    width = np.ptp(x_M)
    return np.where((square > 0) & (at > x_M.min() - width) & (at < x_M.max() + width), np.exp(np.clip(at, -700, 700)), np.nan)


def _curve(flops: float, runs: Runs) -> Curve:
    params, tokens, loss = runs.params, runs.tokens, runs.loss
    none = float("nan")
    sizes = len(np.unique(np.round(np.log(params), 3)))
    if sizes < 3:
        return Curve(flops, params, tokens, loss, none, none, none, (0.0, 0.0, 0.0), f"{sizes} sizes, a parabola needs 3", ())
    x = np.log(params)
    least_N, least_D = float(_minima(x, loss[None])[0]), float(_minima(np.log(tokens), loss[None])[0])
    reason, warnings, shape, least = "", [], (0.0, 0.0, 0.0), none
    if not np.isfinite(least_N) or not np.isfinite(least_D):
        reason = "the loss has no minimum in the sizes"
    elif not x.min() < np.log(least_N) < x.max():
        reason = f"the minimum, {least_N:.3g} parameters, is beyond the sizes ({params.min():.3g} to {params.max():.3g})"
    else:
        shape = tuple(float(c) for c in np.polyfit(x - np.log(least_N), loss, 2))
        least = shape[2]
        width, middle = np.ptp(x), (x.max() + x.min()) / 2
        if width > np.log(WIDE) * 1.001:
            warnings.append(f"{flops:.3g} FLOPs: sizes span a factor of {np.exp(width):.3g}; a parabola is good to about {WIDE:g}")
        if abs(np.log(least_N) - middle) > OFF_CENTRE * width:
            warnings.append(
                f"{flops:.3g} FLOPs: the minimum, {least_N:.3g} parameters, is far from the middle, {np.exp(middle):.3g}"
            )
        if sizes < 5:
            warnings.append(f"{flops:.3g} FLOPs: a parabola through {sizes} sizes")
    return Curve(flops, params, tokens, loss, least_N, least_D, least, shape, reason, tuple(warnings))
