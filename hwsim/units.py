"""Quantities with units, as people type them: ``4ms``, ``20MiB``, ``1.2GHz``, ``30G``, ``50mJ``.

One table of suffixes serves parsing and printing, so that whatever is printed can be typed back.
"""

import math
import re
from typing import Literal

from hwsim.errors import UserError

Quantity = str | float | None
"""As people write it: text with a unit, or a number in SI units."""
Dimension = Literal["time", "bytes", "energy", "frequency", "count", "power"]

_SUFFIXES: dict[Dimension, dict[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
    "bytes": {
        "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
        "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    },
    "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12},
    "frequency": {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9},
    "count": {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15},
    "power": {"W": 1.0, "mW": 1e-3, "uW": 1e-6, "kW": 1e3},
}  # fmt: skip
_PRINTED: dict[Dimension, tuple[str, ...]] = {
    "time": ("s", "ms", "us", "ns"),
    "bytes": ("GiB", "MiB", "KiB", "B"),
    "energy": ("J", "mJ", "uJ", "nJ", "pJ"),
    "frequency": ("GHz", "MHz", "kHz", "Hz"),
    "count": ("P", "T", "G", "M", "K", ""),
    "power": ("W", "mW", "uW"),
}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*")


def parse_quantity(text: str, dimension: Dimension, where: str) -> float:
    """Read ``4ms`` as 0.004; ``where`` names the flag or field in the error message."""
    match = _NUMBER.fullmatch(text)
    suffixes = _SUFFIXES[dimension]
    if match is None or match.group(2) not in suffixes:
        known = ", ".join(suffix for suffix in suffixes if suffix) or "none"
        raise UserError(f"{where}: {text!r} is not a {dimension} value; write a number and a unit ({known})")
    value = float(match.group(1)) * suffixes[match.group(2)]
    if not math.isfinite(value) or value <= 0:
        raise UserError(f"{where}: {text!r} must be greater than 0")
    return value


def quantity(value: Quantity, dimension: Dimension, where: str) -> float:
    """Text through ``parse_quantity``; a number is in SI units already."""
    if isinstance(value, str):
        return parse_quantity(value, dimension, where)
    if value is None or not (math.isfinite(value) and value > 0):
        raise UserError(f"{where}: {value!r} must be greater than 0")
    return float(value)


def exact_text(value: Quantity, dimension: Dimension) -> str | None:
    """A quantity as text that reads back to the very same number."""
    if value is None or isinstance(value, str):
        return value
    return f"{float(value)!r}{next(suffix for suffix, scale in _SUFFIXES[dimension].items() if scale == 1)}"


def format_quantity(value: float, dimension: Dimension, digits: int = 3) -> str:
    """Print ``0.004`` as ``4 ms``: the largest unit that leaves a number of at least one."""
    suffixes = _PRINTED[dimension]
    if not math.isfinite(value):
        return "—"
    for suffix in suffixes:
        scale = _SUFFIXES[dimension][suffix]
        if abs(value) >= scale * (1 - 0.5 * 10.0**-digits):
            break
    else:
        suffix, scale = suffixes[-1], _SUFFIXES[dimension][suffixes[-1]]
    number = f"{value / scale:.{digits}g}"
    if "e" in number:
        number = f"{value / scale:.0f}"
    return f"{number} {suffix}".rstrip()
