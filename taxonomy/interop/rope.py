"""Rotary positions in config.json: `rope_parameters`, or `rope_theta` and `rope_scaling` as they were called before."""

import math
from collections.abc import Mapping
from typing import Any

from taxonomy.interop.family import Fields, Inexpressible, need, say
from taxonomy.registry import Component

# Dynamic scaling begins beyond the context, so within it there is none.
_KINDS = {kind: kind for kind in ("default", "linear", "dynamic", "yarn", "llama3")}


def rope(
    fields: Fields,
    context: int,
    width: int,
    theta: float = 10000.0,
    partial: float | None = None,
    interleaved: bool = False,
    names: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
    kinds: Mapping[str, str] = _KINDS,
    sharpened: bool = False,
) -> str:
    """Our position for heads of `width`. `theta` and `partial` are the family's defaults, `names` its fields for them outside.

    A family without `partial` rotates whole heads; one that is `sharpened` multiplies scores by what mscale_all_dim says. Raises
    UserError on a scaling that there is none of here, such as longrope.
    """
    theta = fields.read(names[0], float, theta)
    partial = None if partial is None else fields.read(names[1], float, partial)
    old, new = fields.inside("rope_scaling"), fields.inside("rope_parameters")
    return parameters(old if old.values else new, context, width, theta, partial, interleaved, kinds, sharpened)


def parameters(
    given: Fields, context: int, width: int, theta: float, partial=None, interleaved=False, kinds=_KINDS, sharpened=False
) -> str:
    """The same of one object of such parameters."""
    theta = given.read("rope_theta", float, theta)
    dims = width if partial is None else int(width * given.read("partial_rotary_factor", float, partial))
    kind = given.read("rope_type", kinds, given.read("type", kinds, "default"))
    scaling = _SCALINGS[kind](given, context) if kind in _SCALINGS else None
    if sharpened and kind == "yarn":
        scaling = say(scaling, sharpening=given.read("mscale_all_dim", float, 0.0) or None)
    given.finish(fixed={"partial_rotary_factor": 1.0})
    return say("rope", theta=theta, dims=None if dims == width else dims, interleaved=interleaved or None, scaling=scaling)


def _linear(given: Fields, context: int) -> str:
    return say("linear", factor=given.read("factor", float))


def _dynamic(given: Fields, context: int) -> None:
    given.read("factor", float)
    given.read("original_max_position_embeddings", int, None)


def _llama3(given: Fields, context: int) -> str:
    return say(
        "by_parts",
        factor=given.read("factor", float),
        low=given.read("low_freq_factor", float),
        high=given.read("high_freq_factor", float),
        original_context=given.read("original_max_position_embeddings", int, context),
    )


def _yarn(given: Fields, context: int) -> str:
    original = given.read("original_max_position_embeddings", int, context)
    factor = given.read("factor", float, context / original)
    magnitude = given.read("attention_factor", float, None)
    scales = [given.read(name, float, 0.0) for name in ("mscale", "mscale_all_dim")]
    if magnitude is None and all(scales):
        numerator, denominator = (1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0 for scale in scales)
        magnitude = numerator / denominator
    rounded = given.read("truncate", bool, True)
    return say(
        "yarn",
        factor=factor,
        original_context=original,
        fast=given.read("beta_fast", float, 32.0),
        slow=given.read("beta_slow", float, 1.0),
        magnitude=magnitude,
        rounded=None if rounded else False,
    )


_SCALINGS = {"linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}


def rope_parameters(attention: Component, width: int | None = None) -> dict[str, Any]:
    """The inverse: the parameters of an attention's position; `width` of what could be rotated, if not the whole head."""
    position, width = attention["position"], width or need(attention, "head_dim")
    found = {"rope_type": "default", "rope_theta": need(position, "theta")}
    dims = position["dims"] or width
    if dims != width:
        found["partial_rotary_factor"] = partial_factor(dims, width)
    scaling = position.get("scaling")
    match scaling and scaling.name:
        case None:
            pass
        case "linear":
            found |= {"rope_type": "linear", "factor": scaling["factor"]}
        case "by_parts":
            found |= {
                "rope_type": "llama3",
                "factor": scaling["factor"],
                "low_freq_factor": scaling["low"],
                "high_freq_factor": scaling["high"],
                "original_max_position_embeddings": scaling["original_context"],
            }
        case "yarn":
            found |= {
                "rope_type": "yarn",
                "factor": scaling["factor"],
                "beta_fast": scaling["fast"],
                "beta_slow": scaling["slow"],
                "truncate": scaling["rounded"],
                "original_max_position_embeddings": scaling["original_context"],
            }
            if scaling["magnitude"] is not None:
                found["attention_factor"] = scaling["magnitude"]
            if scaling["sharpening"]:
                found["mscale_all_dim"] = scaling["sharpening"]
        case name:
            raise Inexpressible(f"no word for '{name}'")
    return found


def partial_factor(dims: int, width: int) -> float:
    """A fraction of which `int(width * fraction)` is `dims`."""
    fraction = dims / width
    return fraction if int(width * fraction) == dims else math.nextafter(fraction, math.inf)
