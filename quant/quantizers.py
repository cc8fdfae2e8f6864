"""Plain quantizers: uniform (symmetric, asymmetric), logarithmic, power-of-two, binary and ternary.

Each returns integer codes and what turns them back into values. Granularity is a view: `blocks` folds a tensor
so that every row of the result shares one scale (per tensor, per channel, or per group of adjacent entries).
Ties round to even, as in IEEE 754 and in torch; ranges always contain 0; a zero range gets scale 1, so that
zeros stay zeros and no scale is 0, infinite or NaN (methods.md, traps Q1-Q5).
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quant.errors import QuantError

SMALLEST = 1e-30
"""Scales below are taken for 0: a row of nothing has codes 0."""
Granularity = Literal["tensor", "row", "group"]
LARGEST = {"weights": 8, "activations": 16}


@dataclass(frozen=True, eq=False)
class Codes:
    """Integer codes (blocks, entries) with value = (code - zero_point) * scale, one pair for each block."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    shape: tuple[int, ...]

    def value(self) -> Tensor:
        """The quantized tensor in its original shape."""
        wide = (self.codes - self.zero_point[:, None]).to(self.scale.dtype) * self.scale[:, None]
        return wide.reshape(self.shape)


def blocks(value: Tensor, granularity: Granularity, group: int = 0) -> Tensor:
    """Fold `value` so that each row of the result is quantized on its own."""
    match granularity:
        case "tensor":
            return value.reshape(1, -1)
        case "row":
            return value.reshape(value.shape[0], -1)
        case "group":
            per_row = value[0].numel() if len(value) else 0
            if group < 1 or per_row % group:
                raise QuantError(f"groups of {group}: must divide the row length {per_row}")
            return value.reshape(-1, group)


def symmetric(value: Tensor, bits: int, granularity: Granularity = "row", group: int = 0) -> Codes:
    """Max-abs scale, codes within +-(2^(b-1) - 1); needs two bits or more."""
    _check_bits(bits, least=2)
    folded = blocks(value, granularity, group)
    limit = 2 ** (bits - 1) - 1
    scale = _safe(folded.abs().amax(1) / limit)
    codes = torch.round(folded / scale[:, None]).clamp(-limit, limit).to(torch.int32)
    return Codes(codes, scale, torch.zeros_like(codes[:, 0]), tuple(value.shape))


def asymmetric(value: Tensor, bits: int, granularity: Granularity = "row", group: int = 0) -> Codes:
    """Min-max range extended to 0, codes 0..2^b - 1, integer zero point."""
    _check_bits(bits, least=1)
    folded = blocks(value, granularity, group)
    top = 2**bits - 1
    low, high = folded.amin(1).clamp_max(0), folded.amax(1).clamp_min(0)
    scale = _safe((high - low) / top)
    zero = torch.round(-low / scale).clamp(0, top)
    codes = (torch.round(folded / scale[:, None]) + zero[:, None]).clamp(0, top)
    return Codes(codes.to(torch.int32), scale, zero.to(torch.int32), tuple(value.shape))


def power_of_two_symmetric(
    value: Tensor, bits: int, granularity: Granularity = "row", group: int = 0
) -> Codes:
    """Symmetric with every scale rounded up to a power of two: rescaling is a shift."""
    plain = symmetric(value, bits, granularity, group)
    limit = 2 ** (bits - 1) - 1
    scale = torch.exp2(torch.ceil(torch.log2(plain.scale)))
    folded = blocks(value, granularity, group)
    codes = torch.round(folded / scale[:, None]).clamp(-limit, limit).to(torch.int32)
    return Codes(codes, scale, plain.zero_point, plain.shape)


def binary(value: Tensor, granularity: Granularity = "row", group: int = 0) -> Codes:
    """Sign times mean magnitude, the least-squares one-bit quantizer (Rastegari et al. 2016)."""
    folded = blocks(value, granularity, group)
    codes = torch.where(folded < 0, -1, 1).to(torch.int32)
    return Codes(codes, folded.abs().mean(1), torch.zeros_like(codes[:, 0]), tuple(value.shape))


def ternary(value: Tensor, granularity: Granularity = "row", group: int = 0) -> Codes:
    """The least-squares ternary quantizer, exact: of the k largest magnitudes keep their sign and mean.

    With magnitudes sorted downwards and prefix sums S_k, the error falls by S_k^2 / k; the best k is the
    largest of these (Li et al. 2016 approximate it by a threshold of 0.7 mean).
    """
    folded = blocks(value, granularity, group)
    ordered = folded.abs().sort(1, descending=True).values
    count = torch.arange(1, ordered.shape[1] + 1, dtype=ordered.dtype)
    sums = ordered.cumsum(1)
    best = (sums.square() / count).argmax(1, keepdim=True)
    scale = sums.gather(1, best)[:, 0] / count[best[:, 0]]
    threshold = ordered.gather(1, best)
    kept = (folded.abs() >= threshold) & (scale > SMALLEST)[:, None]
    codes = (torch.sign(folded) * kept).to(torch.int32)
    return Codes(codes, _safe(scale), torch.zeros_like(codes[:, 0]), tuple(value.shape))


@dataclass(frozen=True, eq=False)
class LogCodes:
    """Codes q with value = scale * 2^(-q / steps_per_octave); the last code stands for 0."""

    codes: Tensor
    scale: float
    steps_per_octave: int
    bits: int

    def value(self) -> Tensor:
        """The quantized tensor."""
        power = torch.exp2(-self.codes.to(torch.float32) / self.steps_per_octave) * self.scale
        return torch.where(self.codes == 2**self.bits - 1, 0.0, power)


def logarithmic(value: Tensor, bits: int, steps_per_octave: Literal[1, 2] = 1) -> LogCodes:
    """Log2 (1 step per octave) or log-sqrt2 (2 steps) of values that are not negative, such as softmax outputs."""
    _check_bits(bits, least=2)
    if bool((value < 0).any()):
        raise QuantError("logarithmic quantizer: values must not be negative")
    scale = float(value.max()) if value.numel() else 0.0
    scale = scale if scale > 1e-30 else 1.0
    codes = torch.round(-torch.log2((value / scale).clamp_min(1e-30)) * steps_per_octave)
    return LogCodes(codes.clamp(0, 2**bits - 1).to(torch.int32), scale, steps_per_octave, bits)


def _safe(scale: Tensor) -> Tensor:
    return torch.where(scale > SMALLEST, scale, torch.ones_like(scale))


def _check_bits(bits: int, least: int) -> None:
    if not least <= bits <= LARGEST["activations"]:
        raise QuantError(f"{bits} bits: this quantizer takes {least} to {LARGEST['activations']}")
