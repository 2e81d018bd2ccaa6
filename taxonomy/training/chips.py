"""What accelerators can do at best. No JAX here: what is planned needs none."""

import re

from taxonomy.errors import UserError, nearest

# Dense bfloat16 peak of one device in FLOP/s, from the makers' data sheets, by a part of the device's name.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1154e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
# By the name of a slice, "v5p-256": the device, and how many of what the number counts are one (v4 and v5p: two cores a chip).
SLICES = {
    "v2": ("TPU v2", 1),
    "v3": ("TPU v3", 1),
    "v4": ("TPU v4", 2),
    "v5e": ("TPU v5e", 1),
    "v5litepod": ("TPU v5e", 1),
    "v5p": ("TPU v5p", 2),
    "v6e": ("TPU v6", 1),
    "a100": ("A100", 1),
    "h100": ("H100", 1),
    "h200": ("H200", 1),
    "b200": ("B200", 1),
}


def slice_flops(name: str) -> float:
    """FLOP/s of a slice at best: v5p-256 is 128 chips, h100-8 is 8. Raises UserError."""
    match = re.fullmatch(r"([a-z0-9]+)-([1-9][0-9]*)", name.lower())
    if not match or match[1] not in SLICES:
        known = nearest(match[1], SLICES) if match else f" (allowed: {', '.join(SLICES)}, with a number)"
        raise UserError(f"--chips: expected a kind and a number such as v5p-256 or h100-8, got {name!r}{known}")
    device, each = SLICES[match[1]]
    if int(match[2]) % each:
        raise UserError(f"--chips: {match[1]} counts cores, {each} a chip; {match[2]} is not a multiple of {each}")
    return PEAK_FLOPS[device] * int(match[2]) / each
