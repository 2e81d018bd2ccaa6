"""The figures of scaling laws, as they are known: parabolas at equal FLOPs, contours with the frontier, residuals, the envelope.

Each takes runs and a fit and returns a matplotlib figure. `draw` writes all that a workdir has fits for, as PNG and SVG.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np

from taxonomy.scaling import bootstrap, envelope, fits, hyperparameters, isoflop, variants
from taxonomy.scaling.results import Runs
from taxonomy.scaling.shown import number
from taxonomy.scaling.study import Study

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import cm, colors, ticker

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "figure.dpi": 150,
    "svg.hashsalt": "taxonomy",
}
_MAP = "viridis"
_LINE, _BAND = "#c0392b", "#e8a39a"
_COLORS = ("#c0392b", "#1f618d", "#1e8449", "#b9770e", "#6c3483")


def draw(
    workdir: str | pathlib.Path, runs: Runs, kept: dict[str, dict[str, Any]], study: Study | None = None
) -> list[pathlib.Path]:
    """Writes every figure that the kept fits and the axes of a study allow to `plots/`; the PNG files, in the order of a report."""
    with plt.rc_context(_STYLE):
        return [_saved(workdir, name, figure) for name, figure in _figures(runs, kept, study)]


def draw_coordinates(workdir: str | pathlib.Path, found: dict[str, Any]) -> pathlib.Path:
    """Writes the figure of a coordinate check to `plots/`; the PNG file."""
    with plt.rc_context(_STYLE):
        return _saved(workdir, "coordinates", coordinates(found))


def _saved(workdir: str | pathlib.Path, name: str, figure: Any) -> pathlib.Path:
    folder = pathlib.Path(workdir) / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    # One layout for both files.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for suffix in ("svg", "png"):
        path = folder / f"{name}.{suffix}"
        # No date inside: the same fit is the same file.
        figure.savefig(path, metadata={"Date": None} if suffix == "svg" else {"Software": None})
    plt.close(figure)
    return path


def _figures(runs: Runs, kept: dict[str, dict[str, Any]], study: Study | None) -> Iterator[tuple[str, Any]]:
    if study is not None and study.axes:
        yield "variants", variant_curves(*variants.curves(study, runs))
    drawn: dict[str, Callable[[Runs, dict[str, Any]], Any]] = {"isoflop": isoflop_curves, "envelope": envelope_curves}
    for method, fit in kept.items():
        names = {row["id"] for row in runs.rows}
        left = {one["id"]: one["reason"] for one in fit["excluded"] if one["id"] in names}
        fitted = runs.counted(fit["count"]["params"], fit["count"]["flops"]).without(left)
        if method in drawn:
            yield method, drawn[method](fitted, fit)
        if method == "hyperparameters":
            yield method, best_settings(fitted, fit)
        if fits.METHODS[method].loss is not None:
            if method != "data_constrained":
                yield f"{method}_contours", contours(fitted, fit)
            yield f"{method}_residuals", residuals(fitted, fit)
    if sum(fits.METHODS[method].optimum is not None for method in kept) > 1:
        yield "methods", methods(kept)


def variant_curves(x: str, curves: list[variants.Variant]) -> Any:
    """Mean losses of each variant (left) and how far above the best (right), with bands over seeds.

    Over FLOPs the best is that of all variants; over what else x may be, such as a learning rate, that of the curve itself.
    """
    figure, (left, right) = _panels(1.25, 4.4)
    best = {at: min(curve.mean_M[curve.x_M == at][0] for curve in curves if at in curve.x_M) for c in curves for at in c.x_M}
    for curve, color in zip(curves, plt.get_cmap("tab10").colors * (1 + len(curves) // 10), strict=False):
        for axes, base in ((left, 0.0), (right, np.array([best[at] for at in curve.x_M]) if x == "flops" else curve.mean_M.min())):
            axes.plot(curve.x_M, curve.mean_M - base, marker="o", markersize=4, color=color, linewidth=1.4, label=curve.label)
            axes.fill_between(curve.x_M, curve.low_M - base, curve.high_M - base, color=color, alpha=0.18, linewidth=0)
    name = "training FLOPs C" if x == "flops" else x
    for axes, y, title in (
        (left, "loss", "Variants"),
        (right, "loss above the best", "Against the best variant" if x == "flops" else "Against its own best"),
    ):
        if min(best) > 0:
            _axes(axes, name, y, title)
        else:
            axes.set(xlabel=name, ylabel=y, title=title)
    left.legend(fontsize=8)
    return figure


def isoflop_curves(runs: Runs, fit: dict[str, Any]) -> Any:
    """Losses of each budget over size with their parabolas (left), the minima over compute with the fitted line (right)."""
    budgets = [one["flops"] for one in fit["curves"]]
    curves, _ = isoflop.curves(runs, budgets)
    figure, (left, right) = _panels(1.25, 4.4)
    paint = _scale(budgets)
    for curve in curves:
        color = paint.to_rgba(curve.flops)
        left.scatter(curve.params_M, curve.loss_M, s=16, color=color, alpha=0.85, linewidth=0, zorder=3)
        if curve.reason:
            continue
        x = np.linspace(np.log(curve.params_M.min()) - 0.15, np.log(curve.params_M.max()) + 0.15, 100)
        left.plot(np.exp(x), np.polyval(curve.coefficients, x - np.log(curve.params)), color=color, linewidth=1.4)
        left.plot(curve.params, curve.loss, marker="*", markersize=11, color=_LINE, markeredgecolor="white", zorder=4)
        right.plot(curve.flops, curve.params, marker="o", markersize=7, color=color, markeredgecolor="white", zorder=3)
    losses = np.concatenate([curve.loss_M for curve in curves])
    left.set_ylim(losses.min() - 0.03 * np.ptp(losses), np.quantile(losses, 0.98) + 0.05 * np.ptp(losses))
    _axes(left, "parameters N", "loss", "Loss at equal FLOPs")
    figure.colorbar(paint, ax=left, label="training FLOPs", pad=0.01)
    _frontier(right, fit, (min(budgets) / 2, max(budgets) * 20), r"$N^* = {:.3g}\;C^{{{:.3f}}}$", _LINE)
    _axes(right, "training FLOPs C", "optimal parameters N*", "Optimal size", log_y=True)
    right.legend(loc="upper left")
    return figure


def contours(runs: Runs, fit: dict[str, Any]) -> Any:
    """Contours of the fitted loss over compute and size with the efficient frontier (left), and slices at equal FLOPs (right)."""
    loss, parameters = fits.METHODS[fit["method"]].loss, fit["parameters"]
    figure, (left, right) = _panels(1.25, 4.6)
    low, high = runs.flops.min() / 2, runs.flops.max() * 30
    small, large = (
        runs.params.min() / 2,
        max(runs.params.max(), float(fits.METHODS[fit["method"]].optimum(parameters, high)[0])) * 3,
    )
    flops, params = np.meshgrid(np.geomspace(low, high, 160), np.geomspace(small, large, 160))
    surface = loss(parameters, params, flops / 6 / params)
    top = np.quantile(runs.loss, 0.97)
    inside = surface[(surface <= 1.15 * top)]
    levels = np.geomspace(inside.min() * 1.002, 1.15 * top, 16)
    paint = cm.ScalarMappable(colors.Normalize(inside.min(), 1.15 * top), "magma_r")
    lines = left.contour(flops, params, surface, levels=levels, cmap="magma_r", norm=paint.norm, linewidths=0.9, alpha=0.8)
    left.clabel(lines, lines.levels[1::2], fontsize=7, fmt="%.2f", colors="#333")
    left.scatter(
        runs.flops, runs.params, c=runs.loss, s=14, cmap="magma_r", norm=paint.norm, edgecolor="#333", linewidth=0.25, zorder=3
    )
    _frontier(left, fit, (low, high), r"efficient frontier, $N^* \propto C^{{{1:.3f}}}$", "#1f618d", band="#1f618d")
    left.set(xlim=(low, high), ylim=(small, large))
    _axes(left, "training FLOPs C", "parameters N", "Contours of the fitted loss", log_y=True)
    figure.colorbar(paint, ax=left, label="loss", pad=0.01)
    left.legend(loc="upper left")
    _slices(right, runs, fit, small, large)
    return figure


def _slices(axes: Any, runs: Runs, fit: dict[str, Any], small: float, large: float) -> None:
    method, parameters = fits.METHODS[fit["method"]], fit["parameters"]
    budgets = np.geomspace(np.quantile(runs.flops, 0.03), runs.flops.max(), 6)
    paint = _scale(budgets)
    sizes = np.geomspace(small, large, 200)
    for flops in budgets:
        color = paint.to_rgba(flops)
        near = np.abs(np.log(runs.flops / flops)) < np.log(1.25)
        # The law at the runs' own FLOPs, so that points and line are of one budget.
        moved = (
            runs.loss
            - method.loss(parameters, runs.params, runs.tokens)
            + method.loss(parameters, runs.params, flops / 6 / runs.params)
        )
        axes.scatter(runs.params[near], moved[near], s=14, color=color, linewidth=0, alpha=0.85)
        axes.plot(sizes, method.loss(parameters, sizes, flops / 6 / sizes), color=color, linewidth=1.3, label=f"{flops:.1e}")
    best = [method.optimum(parameters, flops)[0] for flops in np.geomspace(budgets[0], budgets[-1], 60)]
    along = [method.loss(parameters, n, c / 6 / n) for n, c in zip(best, np.geomspace(budgets[0], budgets[-1], 60), strict=True)]
    axes.plot(best, along, color="#1f618d", linestyle="--", linewidth=1.4)
    axes.set_xlim(small, large)
    axes.set_ylim(min(along) - 0.08, np.quantile(runs.loss, 0.985))
    _axes(axes, "parameters N", "loss", "Slices at equal FLOPs")
    axes.legend(title="FLOPs", fontsize=8, title_fontsize=8, loc="upper right")


def residuals(runs: Runs, fit: dict[str, Any]) -> Any:
    """Relative errors over compute, coloured by size (left), and how they are distributed (right)."""
    extra = (runs.column("unique_tokens"),) if fit["method"] == "data_constrained" else ()
    predicted = fits.METHODS[fit["method"]].loss(fit["parameters"], runs.params, runs.tokens, *extra)
    percent = 100 * (runs.loss / predicted - 1)
    figure, (left, right) = _panels(2.6, 3.8, sharey=True)
    paint = _scale(runs.params)
    left.axhline(0, color="#555", linewidth=1)
    left.scatter(runs.flops, percent, s=18, c=runs.params, cmap=_MAP, norm=paint.norm, alpha=0.9, linewidth=0)
    _axes(left, "training FLOPs C", "loss above the law, %", f"Residuals of {fit['method']} (R2 {number(fit['r2'])})")
    figure.colorbar(paint, ax=left, label="parameters N", pad=0.01)
    right.hist(percent, bins=min(40, max(8, len(percent) // 5)), orientation="horizontal", color="#5d8aa8", alpha=0.9)
    right.axhline(float(np.median(percent)), color=_LINE, linewidth=1.2, label=f"median {np.median(percent):+.2f}%")
    right.set(xlabel="runs", title=f"deviation {np.std(percent):.2f}%")
    right.legend(loc="upper right", fontsize=8)
    return figure


def envelope_curves(runs: Runs, fit: dict[str, Any]) -> Any:
    """Curves of all sizes over compute and what is best at each (left), the best sizes with the fitted line (right)."""
    sizes = envelope.sizes(runs)
    best = envelope.envelope(sizes)
    figure, (left, right) = _panels(1.25, 4.4)
    paint = _scale([size.params for size in sizes])
    for size in sizes:
        style = dict(marker=".", markersize=4) if len(size.flops_M) < 30 else {}
        left.plot(size.flops_M, size.loss_M, color=paint.to_rgba(size.params), linewidth=0.9, alpha=0.8, **style)
    used = best.best_K >= 0
    left.plot(best.flops_K, np.where(used, best.loss_K, np.nan), color=_LINE, linewidth=2, label="least loss at each C", zorder=4)
    _axes(left, "training FLOPs C", "loss", "Training curves and their envelope")
    figure.colorbar(paint, ax=left, label="parameters N", pad=0.01)
    left.legend(loc="upper right")
    right.plot(best.flops_K[used], best.params_K[used], ".", markersize=3, color="#555", label="best size")
    _frontier(right, fit, (best.flops_K[used].min() / 2, best.flops_K[used].max() * 20), r"$N^* = {:.3g}\;C^{{{:.3f}}}$", _LINE)
    _axes(right, "training FLOPs C", "optimal parameters N*", "Size of the best run", log_y=True)
    right.legend(loc="upper left")
    return figure


def best_settings(runs: Runs, fit: dict[str, Any]) -> Any:
    """The learning rates and batches that were best, against what the fitted law and the Step Law say."""
    cells, _ = hyperparameters.cells(runs)
    figure, axes = _panels(1, 4.6)
    found = (("learning rate", "rate_M", hyperparameters.learning_rate), ("batch, tokens", "batch_M", hyperparameters.batch))
    for one, (title, column, formula) in zip(axes, found, strict=True):
        measured = np.array([getattr(cell, column)[cell.loss_M.argmin()] for cell in cells])
        for name, law, color in (("fitted", fit["parameters"], _COLORS[0]), ("Step Law", hyperparameters.STEP_LAW, _COLORS[1])):
            said = [formula(law, cell.params, cell.tokens) for cell in cells]
            one.scatter(said, measured, s=26, color=color, alpha=0.8, linewidth=0, label=name)
        ends = np.array([measured.min() / 1.4, measured.max() * 1.4])
        one.plot(ends, ends, color="#555", linewidth=1)
        one.set(xlim=ends, ylim=ends)
        _axes(one, f"{title} by the law", f"best {title}", title.capitalize(), log_y=True)
        one.legend(loc="upper left")
    return figure


def methods(kept: dict[str, dict[str, Any]]) -> Any:
    """N* over compute by every method that was fitted, with intervals: how far they agree."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    ways = [fit for method, fit in kept.items() if fits.METHODS[method].optimum is not None]
    low, high = min(fit["range"]["flops"][0] for fit in ways), 100 * max(fit["range"]["flops"][1] for fit in ways)
    for fit, color in zip(ways, np.resize(_COLORS, len(ways)), strict=True):
        _frontier(axes, fit, (low, high), fit["method"] + r", $C^{{{1:.3f}}}$", color, band=color)
    axes.axvspan(max(fit["range"]["flops"][1] for fit in ways), high, color="#000", alpha=0.05, linewidth=0)
    axes.set_xlim(low, high)
    _axes(axes, "training FLOPs C (shaded: beyond the runs)", "optimal parameters N*", "Optimal size by every method", log_y=True)
    axes.legend(loc="upper left")
    return figure


def coordinates(found: dict[str, Any]) -> Any:
    """What each module gives after the last step over the width, a line a module: the standard parametrization, then muP."""
    figure, axes = _panels(1, 4.6, sharey=True)
    for one, name in zip(axes, ("standard", "mup"), strict=True):
        sizes, worst = found[name]["sizes"], found[name]["worst"]
        for i, (module, sizes_WS) in enumerate(sizes.items()):
            last_W = [sizes_S[-1] for sizes_S in sizes_WS]
            color = _LINE if module == worst else plt.get_cmap(_MAP)(0.9 * i / len(sizes))
            label = module if module in ("logits", worst) else None
            one.plot(found["widths"], last_W, color=color, linewidth=1.2, marker="o", markersize=3, label=label)
        title = f"{name}: at most x{found[name]['ratios'][worst]:.3g} between widths"
        _axes(one, "width", f"rms after {found['steps']} steps", title, log_y=True)
        one.set_xticks(found["widths"], [str(width) for width in found["widths"]])
        one.legend(loc="upper left")
    return figure


def _frontier(axes: Any, fit: dict[str, Any], ends: tuple[float, float], label: str, color: str, band: str = _BAND) -> None:
    """The line of N* over compute, with its interval."""
    method = fits.METHODS[fit["method"]]
    flops = np.geomspace(*ends, 60)
    exponent = fit["exponents"]["params"]
    line = method.optimum(fit["parameters"], flops)[0]
    axes.plot(flops, line, color=color, linewidth=1.8, label=label.format(line[0] / flops[0] ** exponent, exponent), zorder=5)
    samples = fit["samples"]
    if len(next(iter(samples.values()))) >= 20:
        several = {name: values[:, None] for name, values in samples.items()}
        sampled = method.optimum(several, flops[None])[0]
        low, high = np.array([bootstrap.interval(column) for column in np.asarray(sampled).T], float).T
        axes.fill_between(flops, low, high, color=band, alpha=0.18, linewidth=0)


def _scale(values: Any) -> cm.ScalarMappable:
    low, high = float(np.min(values)), float(np.max(values))
    return cm.ScalarMappable(colors.LogNorm(low, high if high > low else low * 1.01), _MAP)


def _axes(axes: Any, x: str, y: str, title: str, log_y: bool = False) -> None:
    axes.set(xlabel=x, ylabel=y, title=title, xscale="log")
    if log_y:
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis) if log_y else (axes.xaxis,):
        low, high = sorted(axis.get_view_interval())
        # Less than two decades have few powers of ten: two and five then count as well.
        subs = (1.0, 2.0, 5.0) if low > 0 and high / low < 100 else (1.0,)
        axis.set_major_locator(ticker.LogLocator(subs=subs))
        axis.set_major_formatter(ticker.FuncFormatter(_tick))
        axis.set_minor_formatter(ticker.NullFormatter())


def _tick(value: float, _: int) -> str:
    """Powers of ten as such, and others with their factor: 2·10⁵."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    factor = value / 10.0**exponent
    return rf"$10^{{{exponent}}}$" if abs(factor - 1) < 1e-6 else rf"${factor:g}{{\cdot}}10^{{{exponent}}}$"


def _panels(ratio: float, height: float, **options: Any) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, 2, figsize=(11.5, height), layout="constrained", width_ratios=(ratio, 1), **options)
    figure.get_layout_engine().set(wspace=0.05)
    return figure, axes
