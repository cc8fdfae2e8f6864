"""Activation quantizers and the ranges they are made from.

A range is a pair (low, high) of one tensor; an asymmetric quantizer of b bits covers it, extended to hold 0
(padding and masked values map to it exactly), with s = (high - low) / (2^b - 1) and z = round(-low / s).
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from quant.errors import QuantError

ActKind = Literal["static", "dynamic"]


@dataclass(frozen=True)
class ActQuantizer:
    """How one activation tensor becomes codes.

    `static`: one scale and zero point for the tensor; unsigned (asymmetric) codes unless `signed`, which is
    symmetric with zero point 0. `dynamic`: scale and zero point of every token are taken at run time.
    """

    bits: int
    kind: ActKind = "static"
    scale: float = 1.0
    zero_point: int = 0
    signed: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise QuantError(f"activation bits {self.bits}: use 2 to 16")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise QuantError(f"activation scale {self.scale}: must be finite and greater than 0")
        inside = self.zero_point == 0 if self.signed else 0 <= self.zero_point < 2**self.bits
        if not inside:
            raise QuantError(f"activation zero point {self.zero_point}: outside the {self.bits}-bit codes")

    @property
    def span(self) -> int:
        """Largest |code - zero point| that can occur."""
        if self.signed:
            return 2 ** (self.bits - 1) - 1
        peak = 2**self.bits - 1
        return peak if self.kind == "dynamic" else max(self.zero_point, peak - self.zero_point)


def quantizer_of(low: float, high: float, bits: int) -> ActQuantizer:
    """The asymmetric quantizer that covers [low, high] and 0 exactly; a range of 0 gives scale 1."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise QuantError(f"activation range [{low}, {high}] is not finite: check the calibration data")
    peak = 2**bits - 1
    scale = float(np.float32((high - low) / peak))
    if not scale > 0:
        return ActQuantizer(bits)
    return ActQuantizer(bits, scale=scale, zero_point=int(np.clip(np.rint(-low / scale), 0, peak)))


@dataclass(frozen=True)
class ActRanges:
    """Ranges by quantizer input `layer.in0`, `layer.in1`, and where they come from.

    `source` is printed beside every figure that rests on them: "calibration", "data-free", "synthetic".
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    source: str = "calibration"
    method: str = "minmax"

    def of(self, key: str) -> tuple[float, float]:
        """Range of one product input; raises where it was never observed."""
        found = self.ranges.get(key)
        if found is None:
            raise QuantError(f"{key}: no activation range; calibrate it or use dynamic quantization")
        return found
