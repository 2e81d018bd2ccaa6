"""Fits and answers as text for a terminal."""

from collections.abc import Iterator
from typing import Any


def fit(result: dict[str, Any], path: str) -> str:
    return "\n".join(_lines(result, path))


def answer(found: dict[str, Any]) -> str:
    """What to train, a line for each quantity."""
    what = "compute-optimal" if found["optimal"] else "as given"
    lines = [f"{what}, by {found['method']}", f"  {'C, FLOPs':16} {number(found['flops']):>10}  95%"]
    for name, title in (("params", "N, parameters"), ("tokens", "D, tokens"), ("tokens_per_param", "D/N"), ("loss", "loss")):
        if found[name] is not None:
            lines.append(f"  {title:16} {number(found[name]):>10}  {between(found['intervals'].get(name))}".rstrip())
    if found["loss"] is not None:
        lines[-1] += f", one run scatters by {100 * found['scatter']:.2g}% besides"
    if "optimum" in found:
        best = found["optimum"]
        sizes = f"N {number(best['params'])}, D {number(best['tokens'])}"
        lines.append(f"  at best these FLOPs give loss {number(best['loss'])} ({best['loss'] - found['loss']:+.4f}): {sizes}")
    recipe = found["recipe"]
    lines.append(f"  learning rate {recipe['learning_rate']:.2g}, batch {number(recipe['batch_tokens'])} tokens, by {recipe['by']}")
    further = found["extrapolation"]
    lines.append(f"  of the largest run: FLOPs x{further['flops']:.3g}, N x{further['params']:.3g}, D x{further['tokens']:.3g}")
    if "nearest" in found:
        near = found["nearest"]
        cost = f", loss {number(near['loss'])} ({near['loss_of_rounding']:+.4f})" if near["loss"] is not None else ""
        rules = ", ".join(f"{number(flops)} {rule}" for rule, flops in near["flops"].items())
        lines.append(f"  nearest: {near['config']}, {number(near['params'])} parameters, {number(near['tokens'])} tokens{cost}")
        lines += [f"  its FLOPs by convention: {rules}", f"  {near['command']}"]
    if "ready" in found:
        one = found["ready"]
        cost = f", loss {number(one['loss'])} ({one['loss_of_rounding']:+.4f})" if one["loss"] is not None else ""
        shape = f"d_model {one['d_model']}, {one['decoder']}"
        lines.append(f"  in the ladder's shape: {shape}, {number(one['params'])} parameters, {number(one['tokens'])} tokens{cost}")
        lines.append(f"  {one['command']}")
    return "\n".join(lines + [f"  warning: {warning}" for warning in found["warnings"]])


def number(value: float | None) -> str:
    """Four digits, with a power of ten only where that is shorter."""
    if value is None:
        return "?"
    return f"{value:.4g}".replace("e+", "e").replace("e0", "e") if value else "0"


def between(interval: list[float | None] | None) -> str:
    return f"[{number(interval[0])}, {number(interval[1])}]" if interval else ""


def _lines(result: dict[str, Any], path: str) -> Iterator[str]:
    low, high = result["range"]["flops"]
    count = ", ".join(value for key, value in result["count"].items() if value != key)
    yield f"{result['method']}: {result['runs']} runs of {number(low)} to {number(high)} FLOPs" + (
        f", counted as {count}" if count else ""
    )
    drawn = f"  95% of {result['bootstraps']} bootstraps" if result["bootstraps"] else ""
    yield f"  {'':24} {'value':>11}{drawn}"
    for name, value in result["parameters"].items():
        yield f"  {name:24} {number(value):>11}  {between(result['intervals'].get(name))}".rstrip()
    for name, value in result["exponents"].items():
        title = {"params": "N* ~ C^", "tokens": "D* ~ C^", "loss": "L - E ~ C^"}[name]
        if name + "_exponent" not in result["parameters"]:
            yield f"  {title:24} {number(value):>11}  {between(result['exponent_intervals'].get(name))}".rstrip()
    if "objective" in result:
        starts, delta = result["starts"], result["delta"]
        loss = "least squares" if delta is None else f"Huber, delta {delta:g}"
        agree = f"{starts['agreeing']} of {starts['tried']} starts agree"
        yield f"  objective {result['objective']:.7g} ({loss}); {agree}; R2 {number(result['r2'])}"
    for one in result.get("curves", []):
        least = (
            f"N* {number(one['params'])}, D* {number(one['tokens'])}, loss {number(one['loss'])}"
            if "params" in one
            else one["reason"]
        )
        yield f"  {number(one['flops']):>10} FLOPs, {one['runs']:3} runs: {least}"
    for name, one in result.get("regret", {}).items():
        lost = f"{one['mean_percent']:.3f}% of loss on average, {one['max_percent']:.3f}% at most"
        yield f"  the settings nearest to {name} lose {lost}"
    for one in result.get("profile", []):
        yield f"  at R_D = {number(one['R_D']):6} best R_N {number(one['R_N']):7} objective {one['objective']:.6f}"
    for one in result.get("holdout", []):
        where = "inside" if one.get("inside") else "outside"
        inside = f", 95% of one run {between(one['interval'])}, {where}" if "interval" in one else ""
        yield f"  held out {one['id']}: {one['loss']:.4f}, predicted {one['predicted']:.4f} ({one['error_percent']:+.4f}%){inside}"
    if "sensitivity" in result:
        yield from _what_if(result["sensitivity"])
    for warning in result["warnings"]:
        yield f"  warning: {warning}"
    for one in result["excluded"]:
        yield f"  left out: {one['id']}: {one['reason']}"
    yield f"kept in {path}"


def _what_if(lines: list[dict[str, Any]]) -> Iterator[str]:
    """The parameters that differ, the exponent of N*, and N* far out."""
    names = [name for name in lines[0]["parameters"] if len({one["parameters"][name] for one in lines}) > 1]
    yield (
        f"  {'what if':36}"
        + "".join(f" {name:>10}" for name in (*names, "N* ~ C^"))
        + f" {'N* at ' + number(lines[0]['flops']):>16}"
    )
    for one in lines:
        values = (*(one["parameters"][name] for name in names), one["exponents"]["params"])
        yield f"  {one['change']:36}" + "".join(f" {number(value):>10}" for value in values) + f" {number(one['params']):>16}"
