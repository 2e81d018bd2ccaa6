"""One HTML file that says what was fitted, what came out, how sure it is and what was left out; it needs nothing beside itself."""

import base64
import html
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from taxonomy.scaling.results import Runs
from taxonomy.scaling.shown import between, number

VERDICT = "check.json"  # what `holdout` writes
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2em auto;padding:0 1em}
h1{font-size:1.7em;margin-bottom:.1em} h2{margin-top:2em;border-bottom:1px solid #ddd} p.note{color:#666;margin-top:0}
table{border-collapse:collapse;margin:.7em 0} td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}
th{color:#666;font-weight:600;border-bottom:1px solid #ccc} td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
img{width:100%;height:auto;margin:.8em 0} .warning{color:#a04000} details{margin:.6em 0} summary{cursor:pointer;color:#1f618d}
"""


def write(
    workdir: str | pathlib.Path, runs: Runs, kept: dict[str, dict[str, Any]], figures: Iterable[pathlib.Path]
) -> pathlib.Path:
    """`report.html` of a workdir. `figures`: files that `figures.draw` wrote, of which the SVG beside each is embedded."""
    workdir = pathlib.Path(workdir)
    images = {path.stem: path.with_suffix(".svg").read_bytes() for path in figures}
    parts = [
        f"<h1>{html.escape(workdir.resolve().name)}</h1>",
        f'<p class="note">{len(runs)} runs, {len(runs.excluded)} left out</p>',
    ]
    if "variants" in images:
        parts += ["<h2>Variants</h2>", _image("variants", images["variants"])]
    if "methods" in images:
        parts += ["<h2>All methods</h2>", _image("methods", images["methods"]), _compared(kept)]
    for method, fit in kept.items():
        parts.append(f"<h2>{html.escape(method)}</h2>")
        parts += [_image(name, image) for name, image in images.items() if name == method or name.startswith(f"{method}_")]
        parts += _fit(fit)
    if (workdir / VERDICT).is_file():
        parts += ["<h2>Predicted before it was trained</h2>", *_checked(json.loads((workdir / VERDICT).read_text()))]
    if runs.excluded:
        parts += ["<h2>Left out of the results</h2>", _reasons(runs.reasons())]
    title = html.escape(workdir.resolve().name)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    path = workdir / "report.html"
    path.write_text(head + "\n".join(parts) + "</html>\n")
    return path


def _fit(fit: dict[str, Any]) -> list[str]:
    low, high = fit["range"]["flops"]
    said = f"{fit['runs']} runs of {number(low)} to {number(high)} FLOPs"
    if "objective" in fit:
        loss = "least squares" if fit["delta"] is None else f"Huber's loss, delta {fit['delta']:g}"
        said += f"; {loss}, objective {fit['objective']:.7g}; {fit['starts']['agreeing']} of {fit['starts']['tried']} starts agree"
    rows = [(name, number(value), between(fit["intervals"].get(name))) for name, value in fit["parameters"].items()]
    titles = {"params": "exponent of N*", "tokens": "exponent of D*", "loss": "exponent of the reducible loss"}
    by_flops = fit["exponents"].items() if "params_exponent" not in fit["parameters"] else ()
    rows += [(titles[name], number(value), between(fit["exponent_intervals"].get(name))) for name, value in by_flops]
    drawn = f"95% of {fit['bootstraps']} bootstraps" if fit["bootstraps"] else ""
    parts = [f'<p class="note">{said}</p>', _table(("", "value", drawn), rows)]
    parts += [f'<p class="warning">{html.escape(warning)}</p>' for warning in fit["warnings"]]
    if fit.get("holdout"):
        lines = [
            (
                one["id"],
                f"{one['loss']:.4f}",
                f"{one['predicted']:.4f}",
                f"{one['error_percent']:+.3f}%",
                between(one.get("interval")),
            )
            for one in fit["holdout"]
        ]
        parts.append(_table(("held out", "loss", "predicted", "error", "95% of one run"), lines))
    if fit.get("sensitivity"):
        parts.append(_what_if(fit["sensitivity"]))
    if fit["excluded"]:
        parts.append(_reasons(fit["excluded"]))
    return parts


def _checked(found: dict[str, Any]) -> list[str]:
    """A frozen prediction beside what came out."""
    rows = []
    for one in found["cells"]:
        error = f"{one['predicted'] - one['loss']:+.4f} nats, {one['error_percent']:+.2f}%" if "loss" in one else one["reason"]
        inside = ("inside" if one["inside"] else "outside") if "inside" in one else ""
        loss = f"{one['loss']:.4f}" if "loss" in one else ""
        rows.append((one["id"], f"{one['predicted']:.4f}", between(one.get("interval")), loss, error, inside))
    note = f"frozen {found['frozen']} on {found['runs']} runs, sha256 {found['sha256'][:16]}"
    note += ", which are others now" if found["runs_changed"] else ""
    return [
        f'<p class="note">{html.escape(note)}</p>',
        _table(("held out", "predicted", "95% of one run", "loss", "error", ""), rows),
    ]


def _compared(kept: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            method,
            *(f"{number(fit['exponents'][name])} {between(fit['exponent_intervals'].get(name))}" for name in ("params", "tokens")),
        )
        for method, fit in kept.items()
        if "params" in fit["exponents"]
    ]
    return _table(("", "exponent of N*", "exponent of D*"), rows)


def _what_if(lines: Sequence[dict[str, Any]]) -> str:
    names = [name for name in lines[0]["parameters"] if len({one["parameters"][name] for one in lines}) > 1]
    header = ("what if", *names, "exponent of N*", f"N* at {number(lines[0]['flops'])} FLOPs")
    rows = [
        (
            one["change"],
            *(number(one["parameters"][name]) for name in names),
            number(one["exponents"]["params"]),
            number(one["params"]),
        )
        for one in lines
    ]
    return "<details open><summary>Sensitivity</summary>" + _table(header, rows) + "</details>"


def _reasons(reasons: Sequence[dict[str, str]]) -> str:
    rows = [(one["id"], one["reason"]) for one in reasons]
    return f"<details><summary>{len(rows)} runs left out</summary>" + _table(("run", "reason"), rows) + "</details>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _image(name: str, svg: bytes) -> str:
    return f'<img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
